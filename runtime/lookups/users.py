"""The user and groups of a container's first process, from its image's passwd and group files.

The rules are those of the built-in plugin. The user comes from the request (a name wins over a
number), else from the image, else it is root. A name must be in the image's ``/etc/passwd``. A
number need not be; if it is, the group comes from there. The files belong to an image, so they are
untrusted: at most 10 MiB are read, only from regular files, with symbolic links confined to the
root file system (``runtime.lookups.layers``). Malformed lines are skipped, as in the C library.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import InvalidArgument
from runtime.transforms.facts import RequestedUser, User

if TYPE_CHECKING:
    from runtime.lookups.layers import Layers

MAX_FILE_BYTES = 10 << 20
MAX_ID = (1 << 31) - 1
"""The largest user or group id. A larger number is refused and never treated as a name: an image
could map that name to root, although it passes the check for runAsNonRoot as a number."""

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


def needs_database(wanted: RequestedUser) -> bool:
    """Whether the ids of ``wanted`` depend on the files of the root file system."""
    name, colon, group = wanted.user.partition(":")
    return bool(wanted.member) or not (_id(name) is not None and colon and _id(group) is not None)


def resolve(wanted: RequestedUser, database: UserDatabase) -> User:
    """The ids of ``wanted``; if it names a user, the additional groups include the primary one.

    Raises InvalidArgument for a name that the image does not have and for a number out of range.
    """
    uid, gid = _user_and_group(wanted, database)
    groups = {*wanted.supplemental_groups, *_memberships(wanted.member, database)}
    if wanted.user:
        groups.add(gid)
    name = wanted.user.partition(":")[0]
    return User(uid, gid, tuple(sorted(groups)), name if _id(name) is None else "")


def read_database(root: Layers) -> UserDatabase:
    """The user database below ``root``.

    Raises FailedPrecondition if a file is not a regular file or too large.
    """
    passwd = root.read_file("/etc/passwd", limit=MAX_FILE_BYTES)
    group = root.read_file("/etc/group", limit=MAX_FILE_BYTES)
    return UserDatabase(tuple(_passwd(passwd or b"")), tuple(_group(group or b"")))


class UserDatabases:
    """A cache of the databases of images, so that each image's files are parsed once.

    The layers of a chain id never change, so an entry never becomes stale.
    """

    def __init__(self, *, images: int = 64, entries: int = 10_000) -> None:
        self._images = images
        self._entries = entries
        self._by_chain_id: OrderedDict[str, UserDatabase] = OrderedDict()

    def get(self, chain_id: str, read: Callable[[], UserDatabase]) -> UserDatabase:
        """The database of the layers ``chain_id``; calls ``read`` the first time."""
        known = self._by_chain_id.get(chain_id)
        if known is not None:
            self._by_chain_id.move_to_end(chain_id)
            return known
        database = read()
        # do not cache a database that is larger than any legitimate one
        if len(database.users) + len(database.groups) <= self._entries:
            self._by_chain_id[chain_id] = database
            if len(self._by_chain_id) > self._images:
                self._by_chain_id.popitem(last=False)
        return database

    def known(self, chain_id: str) -> UserDatabase | None:
        """The database of the layers ``chain_id`` if it is cached."""
        return self._by_chain_id.get(chain_id)


def _user_and_group(wanted: RequestedUser, database: UserDatabase) -> tuple[int, int]:
    name, _, group = (wanted.user or f"{_ROOT}:{_ROOT}").partition(":")
    uid = _wanted_id(name or _ROOT, "user", wanted.field)
    if uid is None:
        entry = next((u for u in database.users if u.name == name), None)
        if entry is None:
            raise InvalidArgument(
                f"the image's /etc/passwd has no user {name!r}; name one, or use a number",
                field=wanted.field,
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
        # the group with the user's name is the user's own, not a supplemental one
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


def _wanted_id(text: str, kind: str, field: str = "") -> int | None:
    """``text`` as the id of a user or group; None if it is a name.

    Raises InvalidArgument for a number that is out of range.
    """
    found = _id(text)
    if found is None and _is_number(text):
        raise InvalidArgument(
            f"the {kind} {text[:40]} is out of range: 0 to {MAX_ID} are allowed", field=field
        )
    return found


def _id(text: str) -> int | None:
    """``text`` as a user or group id; None if it is not a decimal number or too large."""
    if not _is_number(text):
        return None
    digits = text.lstrip("0") or "0"
    if len(digits) > len(str(MAX_ID)):
        return None
    number = int(digits)
    return number if number <= MAX_ID else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
