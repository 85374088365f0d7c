"""What changed between any two pinned versions, in a form small enough to be loaded at once.

Nearly every change lies between two versions that follow one another, and so between all pairs
around these: it is stored once, with the pairs as ranges. What does not, such as a type that
changed twice, is stored with the pairs of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import cache, proto_diff
from codegen.named import Named

Pair = tuple[int, int]
"""The numbers of an older and of a newer version."""
Box = tuple[int, int, int, int]
"""The first and the last older version, and the first and the last newer one, of some pairs."""


@dataclass(frozen=True, slots=True)
class Net:
    """One change, and the pairs of versions between which it lies."""

    change: Named
    boxes: tuple[Box, ...]

    def lies_between(self, old: int, new: int) -> bool:
        """Whether the pair of these two versions is one of them."""
        return any(a <= old <= b and c <= new <= d for a, b, c, d in self.boxes)


def between_all(protos: Sequence[FileDescriptorProto]) -> tuple[Net, ...]:
    """Every change between any two of ``protos``, which are in order, by its name."""

    def make() -> bytes:
        found: dict[Named, set[Pair]] = {}
        for old, new in combinations(range(len(protos)), 2):
            for change in proto_diff.changes(protos[old], protos[new]):
                found.setdefault(change, set()).add((old, new))
        every = sorted(found.items(), key=lambda one: (one[0].kind, one[0].subject, min(one[1])))
        return json.dumps([[astuple(change), list(_boxes(p))] for change, p in every]).encode()

    code = [Path(module).read_bytes() for module in (__file__, proto_diff.__file__)]
    texts = [proto.SerializeToString(deterministic=True) for proto in protos]
    kept = json.loads(cache.made_once("net changes", (*code, *texts), make))
    return tuple(Net(Named(*change), tuple(map(tuple, boxes))) for change, boxes in kept)


def _boxes(pairs: Iterable[Pair]) -> Iterator[Box]:
    left = set(pairs)
    while left:
        old, new = first = min(left)
        last_new = new
        while (old, last_new + 1) in left:
            last_new += 1
        box = {first} | {(old, other) for other in range(new, last_new + 1)}
        last_old = old
        while (row := _row(last_old + 1, new, last_new)) and row <= left:
            box |= row
            last_old += 1
        left -= box
        yield old, last_old, new, last_new


def _row(old: int, new: int, last: int) -> set[Pair]:
    """The pairs of one older version in a box."""
    return {(old, other) for other in range(new, last + 1) if other > old}
