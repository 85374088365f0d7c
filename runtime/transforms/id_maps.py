"""The ids of a pod's user namespace: which id of the node an id in the pod is."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InvalidArgument
from runtime.transforms.facts import User

_USER_FIELD = "config.linux.security_context.run_as_user"


@dataclass(frozen=True, slots=True)
class IdMap:
    """A range of ids of the node that a pod sees as 0 and following."""

    first: int
    size: int

    @classmethod
    def of(cls, label: str) -> IdMap:
        """The one range in ``label``, ``0:first:size``, the format of containerd's snapshot
        labels."""
        _, first, size = label.split(":")
        return cls(int(first), int(size))

    @property
    def label(self) -> str:
        """As containerd's snapshot labels have it."""
        return f"0:{self.first}:{self.size}"

    @property
    def line(self) -> str:
        """As /proc/PID/uid_map has it."""
        return f"0 {self.first} {self.size}"

    def outside(self, inside: int) -> int | None:
        """The id of the node; None for an id that does not exist in the pod."""
        return self.first + inside if inside < self.size else None


@dataclass(frozen=True, slots=True)
class IdMaps:
    """The users and groups of a pod with a user namespace."""

    uids: IdMap
    gids: IdMap

    @property
    def root(self) -> tuple[int, int]:
        """Whom the pod's own files belong to: user and group of the node."""
        return self.uids.first, self.gids.first

    def owner(self, user: User) -> tuple[int, int]:
        """The user and group of the node that ``user`` is.

        Raises InvalidArgument if one of its ids does not exist in the pod, as no process can then
        have it.
        """
        uid = _existing("user", user.uid, self.uids)
        gid = _existing("group", user.gid, self.gids)
        for group in user.additional_gids:
            _existing("group", group, self.gids)
        return uid, gid

    def of_file(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner on the node of an image's file that belongs to ``uid`` and ``gid``.

        For an id that does not exist in the pod it is the node's root, which no process of the pod
        is, unless its mapping says so.
        """
        return self.uids.outside(uid) or 0, self.gids.outside(gid) or 0


def id_maps(uid_mapping: str, gid_mapping: str) -> IdMaps | None:
    """The ids of a pod by its plan's labels; None without a user namespace."""
    if not uid_mapping or not gid_mapping:
        return None
    return IdMaps(IdMap.of(uid_mapping), IdMap.of(gid_mapping))


def _existing(kind: str, inside: int, ids: IdMap) -> int:
    found = ids.outside(inside)
    if found is None:
        raise InvalidArgument(
            f"{kind} {inside} of the request or the image does not exist in the pod's user"
            f" namespace, which has ids 0 to {ids.size - 1}",
            field=_USER_FIELD,
        )
    return found
