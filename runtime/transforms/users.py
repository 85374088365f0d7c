"""The user that a request and an image name, before the image's user database is read."""

from __future__ import annotations

from collections.abc import Sequence

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms.facts import RequestedUser

_ROOT = "0"
_ROOT_AND_GROUP = "0:0"


def wanted_by_container(
    *,
    run_as_user: int | None,
    run_as_group: int | None,
    run_as_username: str,
    supplemental_groups: Sequence[int],
    supplemental_groups_policy: api_pb2.SupplementalGroupsPolicy,
    image_user: str,
) -> RequestedUser:
    """The user in a container's security context and its image; a name wins over a number.

    Raises InvalidArgument for a group without a user, which the CRI does not define.
    """
    user = run_as_username or ("" if run_as_user is None else str(run_as_user))
    if run_as_group is not None:
        if not user:
            raise InvalidArgument(
                "run_as_group requires run_as_user or run_as_username",
                field="config.linux.security_context.run_as_group",
            )
        user_and_group = f"{user}:{run_as_group}"
    else:
        user_and_group = user or image_user or _ROOT_AND_GROUP
    member = user or image_user.partition(":")[0] or _ROOT
    strict = supplemental_groups_policy == api_pb2.SupplementalGroupsPolicy.Strict
    groups = tuple(supplemental_groups)
    field = "config.linux.security_context.run_as_username" if run_as_username else ""
    return RequestedUser(user_and_group, "" if strict else member, groups, field)


def wanted_by_sandbox(
    *,
    run_as_user: int | None,
    run_as_group: int | None,
    supplemental_groups: Sequence[int],
    image_user: str,
) -> RequestedUser:
    """The user in a pod's security context and the pause image.

    The image's groups are not added: the pause process reads no files, so the requested groups are
    enough.
    """
    user = "" if run_as_user is None else str(run_as_user)
    if run_as_group is not None:
        if not user:
            raise InvalidArgument(
                "run_as_group requires run_as_user",
                field="config.linux.security_context.run_as_group",
            )
        user = f"{user}:{run_as_group}"
    return RequestedUser(user or image_user, "", tuple(supplemental_groups))
