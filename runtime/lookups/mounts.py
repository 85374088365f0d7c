"""The sources of a container's mounts: created if missing, resolved, and their propagation read.

The paths can be on network mounts that hang, so callers run these functions in a thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux import mountinfo
from runtime.lookups.user_namespaces import idmap_problem
from runtime.steps import threads
from runtime.transforms.facts import MountSource, RequestedMount


def host_sources(mounts: Sequence[RequestedMount], pid: int = 0) -> tuple[MountSource, ...]:
    """The sources of ``mounts``, in order.

    ``pid`` is a process in the user namespace that mounts map their ids to; 0 if there is none.
    Raises InvalidArgument for a source that does not exist and cannot be created, and
    FailedPrecondition for an image that is not mounted any more.
    """
    # a private mount does not need the mount table, which can be long
    needs_table = any(mount.propagates for mount in mounts)
    table = mountinfo.read() if needs_table else ()
    with _user_namespace(pid) as user_namespace:
        return tuple(
            _host_source(index, mount, table, user_namespace) for index, mount in enumerate(mounts)
        )


@contextlib.contextmanager
def _user_namespace(pid: int) -> Iterator[int | None]:
    """A descriptor of the process's user namespace; None without a process."""
    if not pid:
        yield None
        return
    try:
        descriptor = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # the process ended meanwhile, so nothing will be mounted
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _host_source(
    index: int,
    mount: RequestedMount,
    table: Sequence[mountinfo.Mount],
    user_namespace: int | None,
) -> MountSource:
    field = f"config.mounts[{index}].host_path"
    if not mount.path:
        raise InvalidArgument("must name a path of the node, unless image is set", field=field)
    threads.looking_at(mount.path)
    try:
        # makedirs and not a look first: a source that appears meanwhile is as good; an image is
        # mounted already, unless its pod is being stopped
        if mount.image is None and not os.path.exists(mount.path):
            os.makedirs(mount.path, mode=0o755, exist_ok=True)
        path = os.path.realpath(mount.path, strict=True)
    except FileExistsError as error:
        raise InvalidArgument(
            f"{mount.path} is a symbolic link, or below one, to a path that does not exist",
            field=field,
        ) from error
    except OSError as error:
        if mount.image is not None:
            raise FailedPrecondition(
                f"the image at {mount.path} is not mounted any more: its pod was stopped",
                field=f"config.mounts[{index}].image",
            ) from error
        raise InvalidArgument(
            f"cannot use or create the source {mount.path}: {error.strerror}",
            field=field,
        ) from error
    problem, is_image = "", mount.image is not None
    if mount.maps_ids and user_namespace is not None:
        problem = idmap_problem(path, user_namespace)
    held_by = mountinfo.holding(path, table)
    if held_by is None:
        return MountSource(path, idmap_problem=problem, is_mapped=is_image)
    return MountSource(path, held_by.shared, held_by.slave, problem, is_image)
