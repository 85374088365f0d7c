"""A file of spec/mapping as a record; its meaning is checked elsewhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from codegen import load, project
from codegen.errors import Problems, SpecError
from codegen.load import Key, ListNode, Node, ScalarNode
from codegen.model import Back, ConditionText, Entry, Input, ItemText, MappingFile, Rule
from codegen.nodes import child, items, mapping, optional, text, values

FOLDER = "spec/mapping"
_PARTS = (("fields", "*"), ("targets", "*"))
_FATES = ("copy", "compute", "match", "handled_by", "unmapped")


def read_all(root: Path, problems: Problems) -> tuple[dict[str, MappingFile], frozenset[str]]:
    """{message: file} of every file that follows the schema, and the names (without suffix) of the
    others, whose faults go to ``problems``."""
    package = project.read(root).api.package
    schema = problems.attempt(lambda: load.language_schema("mapping"))
    names = sorted(path.name for path in (root / FOLDER).glob("*.yaml"))
    if schema is None:
        return {}, frozenset(name.removesuffix(".yaml") for name in names)
    found: dict[str, MappingFile] = {}
    broken = set()
    for name in names:
        step = partial(read, root, f"{FOLDER}/{name}", schema, package, problems)
        file = problems.attempt(step)
        if file is None:
            broken.add(name.removesuffix(".yaml"))
            continue
        if file.message in found:
            problems.add(
                f"{file.message} is mapped in {found[file.message].file} already",
                file.message_place,
                "keep one of the files",
                "message-mapped-twice",
            )
            continue
        found[file.message] = file
    return found, frozenset(broken)


def read(
    root: Path, name: str, schema: load.Schema, package: str, problems: Problems
) -> MappingFile:
    """The file ``root/name``, of a message of ``package``, without entries that violate the schema,
    which go to ``problems``; raises SpecError if anything else violates it."""
    node, faulty = load.checked_parts(root, name, schema, _PARTS, problems)
    return from_node(node, name, package, frozenset(part[-1] for part in faulty))


def from_node(
    node: Node, name: str, package: str, faulty: frozenset[str] = frozenset()
) -> MappingFile:
    """The file from the document ``node``, which follows the schema."""
    message = child(node, "message")
    if not text(message).startswith(f"{package}."):
        raise SpecError(
            f"{text(message)} is not a message of {package}",
            message.place,
            f"write the package too, as in {package}.{text(message).rpartition('.')[2]}",
            "unknown-message",
        )
    return MappingFile(
        file=name,
        message=text(message).removeprefix(f"{package}."),
        message_place=message.place,
        flow=text(child(node, "flow")),
        of=_word(node, "of"),
        of_place=(optional(node, "of") or message).place,
        items=tuple(map(_item, _several(optional(node, "item")))),
        entries=_entries(child(node, "fields")),
        targets=_entries(optional(node, "targets")),
        faulty=faulty,
        changed=_word(node, "changed"),
    )


def _several(node: Node | None) -> tuple[Node, ...]:
    """One, or a list of them."""
    if node is None:
        return ()
    return tuple(values(node)) if isinstance(node, ListNode) else (node,)


def _item(node: Node) -> ItemText:
    when = optional(node, "when")
    asked = items(when) if when is not None else ()
    return ItemText(
        tuple(map(_input, _several(child(node, "of")))),
        tuple(ConditionText(name, text(word), word.place) for name, word in asked),
    )


def _entries(node: Node | None) -> dict[str, Entry]:
    if node is None:
        return {}
    return {key.value: _entry(key, body) for key, body in mapping(node).items()}


def _entry(key: Key, node: Node) -> Entry:
    fate = next((f for f in _FATES if optional(node, f) is not None), "compute")
    value = optional(node, fate)
    by = optional(node, "by")
    back = optional(node, "back")
    return Entry(
        name=key.value,
        place=key.place,
        fate=fate,
        value=text(value) if value is not None else key.value,
        value_place=value.place if value is not None else key.place,
        keys={k.value: v.place for k, v in mapping(node).items()},
        why=text(child(node, "why")),
        when=_word(node, "when") or "always",
        by=text(by) if by is not None else None,
        inputs=_inputs(optional(node, "from")),
        partner=_word(node, "with"),
        of=_input(of) if (of := optional(node, "of")) is not None else None,
        merge=_word(node, "merge"),
        rules=tuple(_rule(rule) for rule in values(optional(node, "rules"))),
        back=(
            Back(text(child(back, "by")), _inputs(child(back, "from")), child(back, "by").place)
            if back is not None
            else None
        ),
        if_set=_word(node, "if_set") or "ignore",
        issue=_word(node, "issue"),
        like=_word(node, "like"),
        changed=_word(node, "changed"),
    )


def _word(node: Node, key: str) -> str | None:
    found = optional(node, key)
    return text(found) if found is not None else None


def _inputs(node: Node | None) -> tuple[Input, ...]:
    return tuple(_input(value) for value in values(node))


def _input(node: Node) -> Input:
    path, _, argument = text(node).partition(" as ")
    return Input(path, argument or path.rpartition(".")[2], node.place)


def _rule(node: Node) -> Rule:
    if isinstance(node, ScalarNode):
        return Rule(text(node), (), node.place)
    (key, body), *_ = mapping(node).items()
    given = body.plain()
    listed = given if isinstance(given, list) else [given]
    return Rule(key.value, tuple(v for v in listed if isinstance(v, str | int)), node.place)
