"""generated/<document>/<message>.py: one block of statements for each entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from codegen.emit.python import called, free, imports, is_set, place, value, value_or_none
from codegen.emit.shared import Shared, shared
from codegen.model import (
    Computed,
    Condition,
    Copied,
    Descended,
    Left,
    Source,
    Write,
    is_planned,
    snake,
    stored,
)
from codegen.plan import Builder, Parameter


@dataclass(frozen=True, slots=True)
class Block:
    """A comment and its statements; no statements if the field does nothing here."""

    comment: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuilderText:
    """The variables of the template."""

    message: str
    imports: list[str]
    parameters: tuple[Parameter, ...]
    lines: list[str]
    """The messages that are read more than once, as local variables."""
    blocks: list[Block]


def text(builder: Builder) -> BuilderText:
    """The builder of one message."""
    names, taken = builder.names, builder.names.taken
    often = _asked_often(builder)
    read = shared(_sources(builder, often), taken)
    body = _Body(builder, taken, often, read)
    return BuilderText(
        builder.mapped.message.name,
        imports(names.imports),
        names.parameters,
        read.lines,
        [body.block(write) for write in builder.mapped.writes],
    )


def _sources(builder: Builder, often: frozenset[str]) -> Iterator[Source]:
    """What the function reads, each as often as it does."""
    asked = set()
    for write in builder.mapped.writes:
        if isinstance(write, Copied) and not is_planned(write):
            yield write.source
        elif isinstance(write, Computed) and not is_planned(write):
            for source in (argument.source for argument in write.call.arguments):
                if source.path not in asked:
                    yield source
                if source.path in often:
                    asked.add(source.path)


def _asked_often(builder: Builder) -> frozenset[str]:
    """Paths whose presence several calls need; the first call checks it, the others reuse the
    result."""
    paths = Counter(
        argument.source.path
        for write in builder.mapped.writes
        if isinstance(write, Computed) and not is_planned(write)
        for argument in write.call.arguments
        if argument.none_if_unset
    )
    return frozenset(path for path, count in paths.items() if count > 1)


@dataclass(slots=True)
class _Body:
    """The state of the function while it is being written."""

    builder: Builder
    taken: set[str]
    often: frozenset[str]
    read: Shared
    known: dict[str, str] = field(default_factory=dict)
    """Local variables that hold a source's value or None, by the source's path."""

    def block(self, write: Write) -> Block:
        if isinstance(write, Copied | Computed) and is_planned(write):
            return Block(self._comment(write))
        match write:
            case Left():
                return Block(left(write))
            case Descended():
                return self._descended(write)
            case Copied():
                seen = replace(write, source=self.read.seen(write.source))
                lines = [self._stored(write, _copy_of(seen))]
                return Block(self._comment(write), tuple(_under(write.condition, lines)))
        return Block(self._comment(write), tuple(self._computed(write)))

    def _comment(self, write: Copied | Computed) -> str:
        """``field -> target`` for a field, else the target and what is copied there."""
        target = write.target.path
        if self.builder.mapped.file.targets.get(write.entry.name) is not write.entry:
            return f"{write.entry.name} -> {target}"
        return f"{target} <- {write.source.path}" if isinstance(write, Copied) else target

    def _descended(self, write: Descended) -> Block:
        comment = f"{write.entry.name}: by the entries of {write.message}"
        if write.message not in self.builder.nested:
            return Block(f"{comment}; none has a target")
        module = self.builder.names.modules["builders", snake(write.message)]
        given = "".join(f", {n}={n}" for n in self.builder.nested[write.message])
        own = f"src.{write.entry.name}"
        line = f"{module}.apply({'item' if write.each else own}, out{given})"
        lines = [f"for item in {own}:", f"    {line}"] if write.each else [line]
        return Block(comment, tuple(_under(write.condition, lines)))

    def _computed(self, write: Computed) -> Iterator[str]:
        for argument in write.call.arguments:
            path = argument.source.path
            if argument.none_if_unset and path in self.often and path not in self.known:
                self.known[path] = free(_name_of(argument.source), self.taken)
                yield f"{self.known[path]} = {value_or_none(self.read.seen(argument.source))}"
        result = called(self.read.seen_by(write.call), self.builder.names, self.known)
        if not write.call.returns.optional:
            yield self._stored(write, _as_collection(write, result))
            return
        local = free(snake(write.target.steps[-1]), self.taken)
        yield f"{local} = {result}"
        yield f"if {local} is not None:"
        yield f"    {self._stored(write, _as_collection(write, local))}"

    def _stored(self, write: Copied | Computed, text: str) -> str:
        target = place(write.target)
        match stored(write.entry, write.target):
            case "assign":
                return f"{target} = {text}"
            case "merge":
                lists = self.builder.names.modules["transforms", "lists"]
                return f"{lists}.merge({target}, {text})"
            case method:
                return f"{target}.{method}({text})"


def left(write: Left) -> str:
    """What happens to a field for which nothing is written."""
    entry = write.entry
    if entry.fate == "unmapped":
        return f"{entry.name}: unmapped, {entry.value}"
    if entry.fate == "handled_by":
        return f"{entry.name}: handled by {entry.value}"
    return f"{entry.name}: an input of {entry.partner}"


def _copy_of(write: Copied) -> str:
    """The value to be stored; a collection is copied, not shared."""
    text = value(write.source)
    wraps = {"list": "list", "map": "dict"}
    if stored(write.entry, write.target) != "assign" or write.target.kind.name not in wraps:
        return text
    return f"{wraps[write.target.kind.name]}({text})"


def _as_collection(write: Computed, text: str) -> str:
    """The result, converted to the target's collection type."""
    wanted = {"list": "list", "map": "dict"}.get(write.target.kind.name)
    if stored(write.entry, write.target) != "assign" or write.call.returns.ref == wanted:
        return text
    return f"{wanted}({text})" if wanted else text


def _under(condition: Condition | None, lines: list[str]) -> list[str]:
    if condition is None:
        return lines
    return [f"if {holds(condition)}:", *(f"    {line}" for line in lines)]


def holds(condition: Condition) -> str:
    """The expression that is true if the condition is met."""
    source = condition.source
    if condition.word == "set":
        return is_set(source) if source.presence else f"{value(source)} is not None"
    nonzero = condition.word == "nonzero" and source.kind.name != "bool"
    return f"{value(source)} != 0" if nonzero else value(source)


def _name_of(source: Source) -> str:
    """The last step as a variable, with the context root before it if there is one."""
    last = snake(source.steps[-1])
    return f"{source.root}_{last}" if source.root else last
