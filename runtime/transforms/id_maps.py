"""The IDs of a pod's user namespace: which ID of the node corresponds to an ID in the pod."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InvalidArgument
from runtime.transforms.facts import User

_USER_FIELD = "config.linux.security_context.run_as_user"


@dataclass(frozen=True, slots=True)
class IdMap:
    """A range of IDs of the node that a pod sees as 0 and following."""

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
        """In the format of containerd's snapshot labels."""
        return f"0:{self.first}:{self.size}"

    @property
    def line(self) -> str:
        """In the format of /proc/PID/uid_map."""
        return f"0 {self.first} {self.size}"

    def outside(self, inside: int) -> int | None:
        """The ID on the node; None for an ID that does not exist in the pod."""
        return self.first + inside if inside < self.size else None


@dataclass(frozen=True, slots=True)
class IdMaps:
    """The users and groups of a pod with a user namespace."""

    uids: IdMap
    gids: IdMap

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the node that own the pod's files."""
        return self.uids.first, self.gids.first

    def owner(self, user: User) -> tuple[int, int]:
        """The user and group of the node for ``user``.

        Raises InvalidArgument if one of its IDs does not exist in the pod, because no process can
        have it.
        """
        uid = _existing("user", user.uid, self.uids)
        gid = _existing("group", user.gid, self.gids)
        for group in user.additional_gids:
            _existing("group", group, self.gids)
        return uid, gid

    def of_file(self, uid: int, gid: int) -> tuple[int, int]:
        """The owner on the node of an image's file that belongs to ``uid`` and ``gid``.

        For an ID that does not exist in the pod, it is the node's root, which no process of the pod
        can be, unless its mapping includes it.
        """
        return self.uids.outside(uid) or 0, self.gids.outside(gid) or 0


def id_maps(uid_mapping: str, gid_mapping: str) -> IdMaps | None:
    """The IDs of a pod from its plan's labels; None without a user namespace."""
    if not uid_mapping or not gid_mapping:
        return None
    return IdMaps(IdMap.of(uid_mapping), IdMap.of(gid_mapping))


def _existing(kind: str, inside: int, ids: IdMap) -> int:
    found = ids.outside(inside)
    if found is None:
        raise InvalidArgument(
            f"{kind} {inside} of the request or the image does not exist in the pod's user"
            f" namespace, which has IDs 0 to {ids.size - 1}",
            field=_USER_FIELD,
        )
    return found
