"""Messages of which a generated function reads several fields: each is looked up once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from codegen.emit.python import attribute, free
from codegen.model import Call, Source, snake


@dataclass(frozen=True, slots=True)
class _Way:
    """The steps to a message from a context root, or from the function's own message."""

    root: str | None
    steps: tuple[str, ...]
    fields: int
    """How many of the steps are fields of messages."""

    def up_to(self, depth: int) -> _Way:
        return _Way(self.root, self.steps[:depth], self.fields - len(self.steps) + depth)


@dataclass(frozen=True, slots=True)
class Shared:
    """The local variables that hold messages."""

    names: Mapping[tuple[str | None, tuple[str, ...]], str]
    """By root and steps."""

    @property
    def lines(self) -> list[str]:
        """The assignments, in an order in which each can use those before."""
        lines = []
        for (root, steps), name in sorted(self.names.items(), key=lambda item: len(item[0][1])):
            begins, rest = self._nearest(root, steps)
            lines.append(f"{name} = {'.'.join([begins or 'src', *map(attribute, rest)])}")
        return lines

    def seen(self, source: Source) -> Source:
        """The source, read from the local variable that is nearest to it."""
        root, steps = self._nearest(source.root, source.steps)
        told_root, told_by = self._nearest(source.root, source.told_by)
        told_root = told_root or "src"
        return replace(source, root=root, steps=steps, told_root=told_root, told_by=told_by)

    def seen_by(self, call: Call) -> Call:
        """The call with all its sources read so."""
        arguments = (replace(a, source=self.seen(a.source)) for a in call.arguments)
        return replace(call, arguments=tuple(arguments))

    def _nearest(
        self, root: str | None, steps: tuple[str, ...]
    ) -> tuple[str | None, tuple[str, ...]]:
        for length in range(len(steps) - 1, 0, -1):
            name = self.names.get((root, steps[:length]))
            if name is not None:
                return name, steps[length:]
        return root, steps


def shared(sources: Iterable[Source], taken: set[str]) -> Shared:
    """The messages that are read at least twice."""
    pending = [way for source in sources for way in _ways(source)]
    found: list[_Way] = []
    for depth in range(max((len(way.steps) for way in pending), default=0), 0, -1):
        groups: defaultdict[tuple[str | None, tuple[str, ...]], list[_Way]] = defaultdict(list)
        for way in pending:
            groups[way.root, way.steps[:depth]].append(way)
        pending = []
        for (_, steps), ways in groups.items():
            at_depth = ways[0].up_to(depth)
            if len(ways) == 1 or len(steps) < depth or at_depth.fields < 1:
                pending += ways
                continue
            found.append(at_depth)
            if depth > 1:  # and is itself read once from the message around it
                pending.append(at_depth.up_to(depth - 1))
    names = {(way.root, way.steps): free(_name(way), taken) for way in reversed(found)}
    return Shared(names)


def _ways(source: Source) -> Iterator[_Way]:
    """The message that holds the value, and the one that is asked whether it is set."""
    fields = len(source.steps) if source.root is None else len(source.fields)
    whole = _Way(source.root, source.steps, fields)
    for steps in (source.steps, source.told_by):
        if len(steps) > 1:
            yield whole.up_to(len(steps) - 1)


def _name(way: _Way) -> str:
    return f"{way.root}_{snake(way.steps[-1])}" if way.root else snake(way.steps[-1])
