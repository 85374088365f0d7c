"""generated/items/<message>.py: a key of an item for each entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.emit.builders import holds, left
from codegen.emit.python import built, called, free, imports, quoted, value
from codegen.model import Computed, Copied, Item, Left, Target, Write, snake
from codegen.plan import BuiltItem, ItemBuilder, Parameter


@dataclass(frozen=True, slots=True)
class OneText:
    """The variables of one item."""

    function: str
    parameters: tuple[Parameter, ...]
    made: str
    """The type of the item."""
    plural: bool
    """Whether there is a function for several messages."""
    condition: str
    """As an expression, and in words after "each message"."""
    in_words: str
    what: str
    """What is built."""
    lines: list[str]
    """The statements that build the item."""


@dataclass(frozen=True, slots=True)
class ItemText:
    """The variables of the template."""

    message: str
    what: str
    """What is built, and for which lists or objects."""
    imports: list[str]
    items: list[OneText]


def text(builder: ItemBuilder) -> ItemText:
    """The builders of one message."""
    ones = [_one(builder, one) for one in builder.items]
    of = [one.item for one in builder.items]
    return ItemText(
        builder.mapped.message.name,
        _what(of[0]) if len(of) == 1 else f"Items of {', '.join(map(_paths, of))}",
        imports(builder.names.imports),
        ones,
    )


def _what(item: Item) -> str:
    return f"{'An item of' if item.listed else 'The object'} {_paths(item)}"


def _paths(item: Item) -> str:
    return " or ".join(item.of)


def _one(builder: ItemBuilder, one: BuiltItem) -> OneText:
    item = one.item
    made = {"object": f"types.{item.kind.ref}", "record": f"facts.{item.kind.ref}"}.get(
        item.kind.name, "dict[str, Any]" if item.keys else item.kind.name
    )
    words = [f"{c.word} {c.source.path}" for c in item.conditions]
    body = _Body(builder, item, one.writes, builder.names.taken)
    whole = "Each key under the field that decides it." if item.keys else "The whole item."
    return OneText(
        item.function,
        one.parameters,
        made,
        one.plural,
        " and ".join(map(holds, item.conditions)),
        f" with a {' and a '.join(words)}" if words else "",
        whole if item.alone else f"{_what(item)}.",
        list(body.lines(made)),
    )


@dataclass(frozen=True, slots=True)
class _Body:
    builder: ItemBuilder
    item: Item
    writes: tuple[Write, ...]
    taken: set[str]

    @property
    def json(self) -> bool:
        """Whether the item is JSON; otherwise it is an object of a class, or a scalar."""
        return self.item.kind.name == "json"

    def lines(self, made: str) -> Iterator[str]:
        """The statements: first all keys that every item has, then the optional ones."""
        if not self.item.keys:
            yield from self._whole()
            return
        later = [line for write in self.writes for line in self.later(write)]
        opening, closing = ("{", "}") if self.json else (f"{made}(", ")")
        declared = f"out: {made}" if self.json else "out"
        yield f"{declared} = {opening}" if later else f"return {opening}"
        for write in self.writes:
            yield from self.always(write)
        yield closing
        yield from later
        if later:
            yield "return out"

    def _whole(self) -> Iterator[str]:
        """The statements for a scalar, which one entry writes."""
        for write in self.writes:
            if isinstance(write, Left):
                yield f"# {left(write)}"
            elif isinstance(write, Copied | Computed):
                yield self._comment(write)
        for write in self.writes:
            if isinstance(write, Copied):
                yield f"return {self._copied(write)}"
            elif isinstance(write, Computed):
                yield f"return {called(write.call, self.builder.names, {})}"

    def always(self, write: Write) -> Iterator[str]:
        """The keys that every item has, and comments for fields that write none."""
        match write:
            case Left():
                yield f"# {left(write)}"
            case Copied(condition=None, target=target):
                yield self._comment(write)
                yield self._key(target, self._copied(write))
            case Computed(call=call, target=target) if not self._optional(write):
                yield self._comment(write)
                yield self._key(target, called(call, self.builder.names, {}))

    def later(self, write: Write) -> Iterator[str]:
        """The statements for an optional key."""
        match write:
            case Copied(condition=condition, target=target) if condition is not None:
                yield self._comment(write)
                yield f"if {holds(condition)}:"
                yield f"    {self._place(target)} = {self._copied(write)}"
            case Computed(call=call, target=target) if self._optional(write):
                yield self._comment(write)
                local = free(snake(target.steps[-1]), self.taken)
                yield f"{local} = {called(call, self.builder.names, {})}"
                yield f"if {local} is not None:"
                yield f"    {self._place(target)} = {local}"

    def _optional(self, write: Computed) -> bool:
        """Whether None leaves the key out; a record has all keys."""
        return write.call.returns.optional and self.item.kind.name != "record"

    def _comment(self, write: Copied | Computed) -> str:
        if self.builder.mapped.file.entries.get(write.entry.name) is write.entry:
            return f"# {write.entry.name} -> {write.target.path}"
        return f"# {write.target.path}"

    def _key(self, target: Target, text: str) -> str:
        if self.json:
            return f"{quoted(target.steps[0])}: {text},"
        return f"{self.item.keys[target.steps[0]].attribute}={text},"

    def _place(self, target: Target) -> str:
        if self.json:
            return f"out[{quoted(target.steps[0])}]"
        return f"out.{self.item.keys[target.steps[0]].attribute}"

    def _copied(self, write: Copied) -> str:
        """A collection is copied, not shared; messages with items become those."""
        text = value(write.source)
        if write.items is not None:
            return built(write.items, self.builder.names, text)
        wrap = {"list": "list", "map": "dict"}.get(write.target.kind.name)
        named = write.target.kind.ref  # a record may have a tuple
        wrap = named if named in ("tuple", "frozenset") else wrap
        return f"{wrap}({text})" if wrap else text
