"""generated/items/<message>.py: a key of the item for each entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.emit.builders import holds, left
from codegen.emit.python import called, free, imports, quoted, value
from codegen.model import Computed, Copied, Kind, Left, Target, Write, snake
from codegen.plan import ItemBuilder, Parameter


@dataclass(frozen=True, slots=True)
class ItemText:
    """The variables of the template."""

    message: str
    what: str
    """What is built, and for which lists or objects."""
    imports: list[str]
    parameters: tuple[Parameter, ...]
    made: str
    """The type of the item."""
    listed: bool
    condition: str
    """As an expression, and in words after "each message"."""
    in_words: str
    lines: list[str]
    """The statements that build the item."""


def text(builder: ItemBuilder) -> ItemText:
    """The builder of one message."""
    mapped, item = builder.mapped, builder.item
    assert mapped.file.item is not None
    body = _Body(builder, builder.names.taken)
    paths = " or ".join(given.path for given in mapped.file.item.of)
    made = f"types.{item.kind.ref}" if body.record else "dict[str, Any]"
    words = [f"{c.word} {c.source.path}" for c in item.conditions]
    return ItemText(
        mapped.message.name,
        f"{'An item of' if item.listed else 'The object'} {paths}",
        imports(builder.names.imports),
        builder.names.parameters,
        made,
        item.listed,
        " and ".join(map(holds, item.conditions)),
        f" with a {' and a '.join(words)}" if words else "",
        list(body.lines(made)),
    )


@dataclass(frozen=True, slots=True)
class _Body:
    builder: ItemBuilder
    taken: set[str]

    @property
    def record(self) -> bool:
        """Whether the item is an object of the document; otherwise it is JSON."""
        return self.builder.item.kind.name == "object"

    def lines(self, made: str) -> Iterator[str]:
        """The statements: first all keys that every item has, then the optional ones."""
        writes = self.builder.mapped.writes
        later = [line for write in writes for line in self.later(write)]
        opening, closing = (f"{made}(", ")") if self.record else ("{", "}")
        declared = "out" if self.record else f"out: {made}"
        yield f"{declared} = {opening}" if later else f"return {opening}"
        for write in writes:
            yield from self.always(write)
        yield closing
        yield from later
        if later:
            yield "return out"

    def always(self, write: Write) -> Iterator[str]:
        """The keys that every item has, and comments for fields that write none."""
        match write:
            case Left():
                yield f"# {left(write)}"
            case Copied(condition=None, source=source, target=target):
                yield self._comment(write)
                yield self._key(target, _copied(value(source), target.kind))
            case Computed(call=call, target=target) if not call.returns.optional:
                yield self._comment(write)
                yield self._key(target, called(call, self.builder.names, {}))

    def later(self, write: Write) -> Iterator[str]:
        """The statements for an optional key."""
        match write:
            case Copied(condition=condition, source=source, target=target) if condition is not None:
                yield self._comment(write)
                yield f"if {holds(condition)}:"
                yield f"    {self._place(target)} = {_copied(value(source), target.kind)}"
            case Computed(call=call, target=target) if call.returns.optional:
                yield self._comment(write)
                local = free(snake(target.path), self.taken)
                yield f"{local} = {called(call, self.builder.names, {})}"
                yield f"if {local} is not None:"
                yield f"    {self._place(target)} = {local}"

    def _comment(self, write: Copied | Computed) -> str:
        if write.entry.name in self.builder.mapped.message.fields:
            return f"# {write.entry.name} -> {write.target.path}"
        return f"# {write.target.path}"

    def _key(self, target: Target, text: str) -> str:
        if not self.record:
            return f"{quoted(target.path)}: {text},"
        return f"{self.builder.item.keys[target.path].attribute}={text},"

    def _place(self, target: Target) -> str:
        if not self.record:
            return f"out[{quoted(target.path)}]"
        return f"out.{self.builder.item.keys[target.path].attribute}"


def _copied(text: str, kind: Kind) -> str:
    """A collection is copied, not shared."""
    wrap = {"list": "list", "map": "dict"}.get(kind.name)
    return f"{wrap}({text})" if wrap else text
