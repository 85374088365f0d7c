"""What happened to each part of the API over the pinned versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from codegen import proto_api, proto_diff
from codegen.named import Named
from codegen.project import ServedApi
from codegen.site import net
from codegen.site.net import Net


@dataclass(frozen=True, slots=True)
class Step:
    """The changes from one pinned version to the next."""

    old: str
    new: str
    changes: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class History:
    """All pinned versions up to the current one, oldest first."""

    versions: tuple[str, ...]
    steps: tuple[Step, ...]
    net: tuple[Net, ...]
    """What changed between any two of the versions."""
    _by_subject: Mapping[str, list[tuple[str, Named]]] = field(repr=False)

    def of(self, subject: str) -> list[tuple[str, Named]]:
        """(version, change) of a field, a message or an RPC, oldest first."""
        return self._by_subject.get(subject, [])

    def before(self, version: str) -> str:
        """The version before another one."""
        return next(step.old for step in self.steps if step.new == version)

    def offset(self, since: str) -> int:
        """How many pinned versions are older."""
        return self.versions.index(since) if since in self.versions else 0


def read(root: Path, served: ServedApi, current: str) -> History:
    """The history of the API pinned in ``root`` up to ``current``."""
    pinned = proto_api.pinned(root)
    versions = tuple(pinned)[: list(pinned).index(current) + 1]
    protos = [proto_api.descriptor(served, version, pinned[version]) for version in versions]
    steps = tuple(
        Step(old, new, tuple(proto_diff.changes(before, after)))
        for (old, before), (new, after) in pairwise(zip(versions, protos, strict=True))
    )
    return History(versions, steps, net.between_all(protos), _by_subject(steps))


def _by_subject(steps: Sequence[Step]) -> dict[str, list[tuple[str, Named]]]:
    found: dict[str, list[tuple[str, Named]]] = {}
    for step in steps:
        for change in step.changes:
            found.setdefault(change.subject, []).append((step.new, change))
    return found
