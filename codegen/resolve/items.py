"""Messages that become items of lists, or objects: the items and their keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from codegen.errors import SpecError, nearest, one_of
from codegen.model import (
    Computed,
    Condition,
    Copied,
    Entry,
    Item,
    ItemsOf,
    ItemText,
    Kind,
    MappingFile,
    Target,
    Write,
)
from codegen.paths import Paths
from codegen.resolve.scope import Scope, check_asked


def of_file(scope: Scope) -> tuple[Item, ...]:
    """What the message becomes."""
    return tuple(_item(scope, written) for written in scope.file.items)


def _item(scope: Scope, written: ItemText) -> Item:
    if scope.file.flow != "in":
        raise SpecError(
            f"{scope.message.name} is of flow {scope.file.flow}, so it becomes no item",
            written.of[0].place,
            "make its flow in",
            "item-does-not-fit",
        )
    kind, listed = scope.paths.item_at(written.of[0].path, written.of[0].place)
    for other in written.of[1:]:
        if scope.paths.item_at(other.path, other.place) != (kind, listed):
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
    return Item(
        tuple(given.path for given in written.of),
        kind,
        listed,
        scope.paths.keys_of(kind),
        conditions,
        alone=len(scope.file.items) == 1,
    )


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


def target(items: tuple[Item, ...], entry: Entry, path: str) -> Target:
    """The key of an item that an entry writes, or the whole item if it is a scalar."""
    item = next((one for one in items if one.key(path) is not None), None)
    name = item.key(path) if item is not None else None
    if item is None or name is None or (item.keys and name not in item.keys):
        known = [known for one in items for known in _targets(one)]
        raise SpecError(
            f"{item.kind} has no {name}" if item is not None else f"no item has {path}",
            entry.value_place,
            nearest(path, known) or one_of(known),
            "unknown-target",
        )
    if entry.merge is not None:
        raise SpecError(
            f"{path} has one writer in a new item, so merge: does not fit",
            entry.keys["merge"],
            "leave it out",
            "key-does-not-fit",
        )
    if entry.when != "always" and item.kind.name not in ("object", "json"):
        raise SpecError(
            f"{path} always has a value, so when: does not fit",
            entry.keys["when"],
            "leave it out; an unset field is the empty value",
            "key-does-not-fit",
        )
    kind = item.keys[name].kind if item.keys else item.kind
    return Target(path, "item", (name,) if name else (), kind)


def _targets(item: Item) -> Iterator[str]:
    """What entries may write."""
    if item.alone and item.keys:
        yield from item.keys
    else:
        yield from (f"{of}.{key}" if key else of for of in item.of for key in item.keys or ("",))


def check_complete(scope: Scope, item: Item, writes: tuple[Write, ...]) -> None:
    """Every required key of the item must always be written, and a scalar item as a whole."""
    done = {
        item.key(w.target.path)
        for w in writes
        if (isinstance(w, Copied) and w.condition is None)
        or (isinstance(w, Computed) and _always(item, w))
    }
    needed = [name for name, part in item.keys.items() if part.required] if item.keys else [""]
    missing = [name or "its value" for name in needed if name not in done]
    if missing:
        raise SpecError(
            f"an item of {item.of[0]} needs {', '.join(missing)}, which no entry always writes",
            next(t.of[0].place for t in scope.file.items if t.of[0].path == item.of[0]),
            "write it by a copy without when:, or by a transform that never returns None",
            "item-lacks-key",
        )


def _always(item: Item, write: Computed) -> bool:
    return item.kind.name == "record" or not write.call.returns.optional


def passed(
    paths: Paths, files: Mapping[str, MappingFile], kind: Kind, wanted: Kind
) -> ItemsOf | None:
    """How a message, or a list of them, becomes a value of the kind ``wanted`` as its items; None
    if it does not."""
    listed = kind.name == "list"
    held = kind.of[0] if listed else kind
    if held.name != "message" or held.ref not in files or wanted.optional:
        return None
    one = wanted.of[0] if wanted.name == "list" else wanted
    scope = Scope(paths.api.messages[held.ref], files[held.ref], files, paths, None)
    for item in of_file(scope):
        fits = item.listed == listed == (wanted.name == "list") and item.kind == one
        if fits and not any(needs_facts(scope, entry) for entry in entries_of(item, scope.file)):
            return ItemsOf(held.ref, f"{item.function}s" if listed else item.function)
    return None


def entries_of(item: Item, file: MappingFile) -> Iterator[Entry]:
    """The entries that write the item."""
    yield from (e for e in file.entries.values() if item.key(e.value) is not None)
    yield from (e for e in file.targets.values() if item.key(e.name) is not None)


def needs_facts(scope: Scope, entry: Entry) -> bool:
    """Whether the entry reads a context root, which may differ from item to item."""
    given = [(i.path, i.place) for i in entry.inputs]
    if scope.is_target(entry) and entry.fate == "copy":
        given.append((entry.value, entry.value_place))
    return any(scope.paths.source(path, place, scope.message).root for path, place in given)
