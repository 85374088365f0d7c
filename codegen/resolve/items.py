"""Messages that become one item of a list, or one object: the item and its keys."""

from __future__ import annotations

from codegen.errors import SpecError, nearest, one_of
from codegen.model import Computed, Condition, Copied, Entry, Item, ItemText, Target, Write
from codegen.resolve.scope import Scope, check_asked


def of_file(scope: Scope) -> Item | None:
    """What the message becomes; None if the file has no ``item``."""
    written = scope.file.item
    if written is None:
        return None
    if scope.file.flow != "in":
        raise SpecError(
            f"{scope.message.name} is of flow {scope.file.flow}, so it becomes no item",
            written.of[0].place,
            "make its flow in",
            "item-does-not-fit",
        )
    kind, listed = scope.paths.object_at(written.of[0].path, written.of[0].place)
    for other in written.of[1:]:
        if scope.paths.object_at(other.path, other.place) != (kind, listed):
            raise SpecError(
                f"{other.path} is not of the same type as {written.of[0].path}, {kind}",
                other.place,
                "one message can only become one type of item",
                "item-does-not-fit",
            )
    conditions = _conditions(scope, written)
    if conditions and not listed:
        raise SpecError(
            f"{written.of[0].path} is one {kind}, which cannot be left out by when:",
            written.when[0].place,
            "when: is for the items of a list",
            "item-does-not-fit",
        )
    return Item(kind, listed, scope.paths.keys_of(kind), conditions)


def _conditions(scope: Scope, written: ItemText) -> tuple[Condition, ...]:
    found = []
    for asked in written.when:
        field = scope.message.fields.get(asked.field)
        if field is None:
            raise SpecError(
                f"{scope.message.name} has no field {asked.field}",
                asked.place,
                nearest(asked.field, scope.message.fields) or one_of(scope.message.fields),
                "unknown-field",
            )
        source = scope.own(field)
        check_asked(asked.word, source, asked.place)
        found.append(Condition(source, asked.word))
    return tuple(found)


def key(item: Item, entry: Entry, path: str) -> Target:
    """The key of the item that an entry writes."""
    if path not in item.keys:
        raise SpecError(
            f"{item.kind} has no {path}",
            entry.value_place,
            nearest(path, item.keys) or one_of(item.keys),
            "unknown-target",
        )
    if entry.merge is not None:
        raise SpecError(
            f"{path} has one writer in a new item, so merge: does not fit",
            entry.keys["merge"],
            "leave it out",
            "key-does-not-fit",
        )
    return Target(path, "item", (path,), item.keys[path].kind)


def check_complete(scope: Scope, item: Item, writes: tuple[Write, ...]) -> None:
    """Every required key of the item must always be written."""
    assert scope.file.item is not None
    done = {w.target.path for w in writes if isinstance(w, Copied) and w.condition is None}
    done |= {
        w.target.path for w in writes if isinstance(w, Computed) and not w.call.returns.optional
    }
    missing = [name for name, part in item.keys.items() if part.required and name not in done]
    if missing:
        raise SpecError(
            f"an item of {scope.file.item.of[0].path} needs {', '.join(missing)}, which no entry"
            " always writes",
            scope.file.item.of[0].place,
            "write it by a copy without when:, or by a transform that never returns None",
            "item-lacks-key",
        )
