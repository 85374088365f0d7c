"""Who a container's first process is: user and groups by the passwd and group files of its image.

The rules are those of the built-in plugin. A user is named by the request (a name wins over a
number), else by the image, else it is root. A name must be in the image's ``/etc/passwd``; a
number need not be, and takes its group from there if it is. The files are an image's and so
untrusted: at most 10 MiB are read, only from regular files, with symbolic links confined to the
root file system (``rootfs_layers``). Lines that make no sense are skipped, as the C library
does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms.facts import User

if TYPE_CHECKING:
    from runtime.lookups.layers import Layers

MAX_FILE_BYTES = 10 << 20
MAX_ID = (1 << 31) - 1
"""The largest user or group id. A larger number is refused and never taken for a name: an image
could give that name to root, while it counts as a number where runAsNonRoot is checked."""

_ROOT = "0"


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    name: str
    gid: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UserDatabase:
    """The passwd and group files of a root file system; absent files are empty."""

    users: tuple[PasswdEntry, ...] = ()
    groups: tuple[GroupEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedUser:
    """What a request and its image say about the user, before anything was looked up."""

    user: str
    """``name|uid[:group|gid]``; "" is root."""
    member: str
    """The name or number whose memberships of the group file count; "" counts none."""
    supplemental_groups: tuple[int, ...]

    @property
    def needs_database(self) -> bool:
        """Whether the files of the root file system can change the answer."""
        name, colon, group = self.user.partition(":")
        return bool(self.member) or not (_id(name) is not None and colon and _id(group) is not None)


def wanted_by_container(
    context: api_pb2.LinuxContainerSecurityContext, image_user: str
) -> WantedUser:
    """The user that a container's security context and its image ask for.

    Raises InvalidArgument for a group without a user: the CRI does not define what it would mean.
    """
    user = context.run_as_username or (
        str(context.run_as_user.value) if context.HasField("run_as_user") else ""
    )
    if context.HasField("run_as_group"):
        if not user:
            raise InvalidArgument(
                "run_as_group needs run_as_user or run_as_username beside it",
                field="config.linux.security_context.run_as_group",
            )
        user_and_group = f"{user}:{context.run_as_group.value}"
    else:
        user_and_group = user or image_user
    member = user or image_user.partition(":")[0] or _ROOT
    strict = context.supplemental_groups_policy == api_pb2.SupplementalGroupsPolicy.Strict
    return WantedUser(user_and_group, "" if strict else member, tuple(context.supplemental_groups))


def wanted_by_sandbox(context: api_pb2.LinuxSandboxSecurityContext, image_user: str) -> WantedUser:
    """The user that a pod's security context and the pause image ask for."""
    user = str(context.run_as_user.value) if context.HasField("run_as_user") else ""
    if context.HasField("run_as_group"):
        if not user:
            raise InvalidArgument(
                "run_as_group needs run_as_user beside it",
                field="config.linux.security_context.run_as_group",
            )
        user = f"{user}:{context.run_as_group.value}"
    # Do not add the image's groups: the pause process reads no files, so the requested groups are
    # enough.
    return WantedUser(user or image_user, "", tuple(context.supplemental_groups))


def resolve(wanted: WantedUser, database: UserDatabase) -> User:
    """The ids behind ``wanted``; the primary group is always among the additional ones.

    Raises InvalidArgument for a name that the image does not know and for a number out of range.
    """
    uid, gid = _user_and_group(wanted.user or f"{_ROOT}:{_ROOT}", database)
    groups = {gid, *wanted.supplemental_groups, *_memberships(wanted.member, database)}
    name = wanted.user.partition(":")[0]
    return User(uid, gid, tuple(sorted(groups)), name if _id(name) is None else "")


def read_database(root: Layers) -> UserDatabase:
    """The user database below ``root``.

    Raises FailedPrecondition when a file is not a regular one or too large.
    """
    passwd = root.read_file("/etc/passwd", limit=MAX_FILE_BYTES)
    group = root.read_file("/etc/group", limit=MAX_FILE_BYTES)
    return UserDatabase(tuple(_passwd(passwd or b"")), tuple(_group(group or b"")))


class UserDatabases:
    """The databases of the images in use, so that each image's files are read and parsed once.

    Layers never change under their chain id, so an entry never goes stale.
    """

    def __init__(self, *, images: int = 64, entries: int = 10_000) -> None:
        self._images = images
        self._entries = entries
        self._by_chain_id: OrderedDict[str, UserDatabase] = OrderedDict()

    def get(self, chain_id: str, read: Callable[[], UserDatabase]) -> UserDatabase:
        """The database of the layers ``chain_id``; ``read`` is called the first time."""
        known = self._by_chain_id.get(chain_id)
        if known is not None:
            self._by_chain_id.move_to_end(chain_id)
            return known
        database = read()
        # a database as large as only an attacker writes is not worth the memory
        if len(database.users) + len(database.groups) <= self._entries:
            self._by_chain_id[chain_id] = database
            if len(self._by_chain_id) > self._images:
                self._by_chain_id.popitem(last=False)
        return database

    def known(self, chain_id: str) -> UserDatabase | None:
        """The database of the layers ``chain_id`` if it was read before."""
        return self._by_chain_id.get(chain_id)


def _user_and_group(user: str, database: UserDatabase) -> tuple[int, int]:
    name, _, group = user.partition(":")
    uid = _wanted_id(name or _ROOT, "user")
    if uid is None:
        entry = next((u for u in database.users if u.name == name), None)
        if entry is None:
            raise InvalidArgument(
                f"the image's /etc/passwd has no user {name!r}; name one, or use a number"
            )
    else:
        entry = next((u for u in database.users if u.uid == uid), PasswdEntry("", uid, 0))
    return entry.uid, _gid(group, database) if group else entry.gid


def _gid(group: str, database: UserDatabase) -> int:
    gid = _wanted_id(group, "group")
    if gid is not None:
        return gid
    for entry in database.groups:
        if entry.name == group:
            return entry.gid
    raise InvalidArgument(
        f"the image's /etc/group has no group {group!r}; name one, or use a number"
    )


def _memberships(member: str, database: UserDatabase) -> Iterator[int]:
    if not member:
        return
    uid = _id(member)
    if uid is not None:
        member = next((u.name for u in database.users if u.uid == uid), "")
    for entry in database.groups:
        # the group named like the user is the user's own and no supplemental one
        if member and entry.name != member and member in entry.members:
            yield entry.gid


def _passwd(content: bytes) -> Iterator[PasswdEntry]:
    for name, *fields in _lines(content):
        if len(fields) >= 3 and (uid := _id(fields[1])) is not None:
            gid = _id(fields[2])
            if gid is not None:
                yield PasswdEntry(name, uid, gid)


def _group(content: bytes) -> Iterator[GroupEntry]:
    for name, *fields in _lines(content):
        if len(fields) >= 2 and (gid := _id(fields[1])) is not None:
            members = fields[2].split(",") if len(fields) > 2 else []
            yield GroupEntry(name, gid, tuple(m.strip() for m in members if m.strip()))


def _lines(content: bytes) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        if line.strip() and not line.startswith("#"):
            yield line.strip().split(":")


def _wanted_id(text: str, kind: str) -> int | None:
    """``text`` as the id of a user or group; None when it is a name.

    Raises InvalidArgument for a number that no id can be.
    """
    found = _id(text)
    if found is None and _is_number(text):
        raise InvalidArgument(f"the {kind} {text[:40]} is out of range: 0 to {MAX_ID} are allowed")
    return found


def _id(text: str) -> int | None:
    """``text`` as a user or group id; None when it is no decimal number or too large."""
    if not _is_number(text):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(MAX_ID)):
        return None
    number = int(digits)
    return number if number <= MAX_ID else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
