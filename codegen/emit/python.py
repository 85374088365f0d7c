"""Expressions and statements that several kinds of generated files share."""

from __future__ import annotations

import json
import keyword
import sys
from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

from codegen.model import Call, Document, ItemsOf, Kind, Source, Target, snake
from codegen.plan import Import, Names


def imports(wanted: Collection[Import]) -> list[str]:
    """Import statements in ruff's order: the standard library first, then by module and name."""
    others = [i for i in wanted if i.home.partition(".")[0] in sys.stdlib_module_names]
    ours = [i for i in wanted if i not in others]
    return [*_statements(others), *([""] if others and ours else []), *_statements(ours)]


def _statements(wanted: Collection[Import]) -> list[str]:
    plain = sorted(i for i in wanted if i.alias is None)
    lines = [
        (home, f"from {home} import {', '.join(i.name for i in group)}")
        for home, group in groupby(plain, key=lambda i: i.home)
    ]
    lines += [(i.home, f"from {i.home} import {i.name} as {i.alias}") for i in wanted if i.alias]
    return [line for _, line in sorted(lines)]


def attribute(name: str) -> str:
    """A key of a schema as a Python attribute."""
    return f"{name}_" if keyword.iskeyword(name) else name


def value(source: Source) -> str:
    """The expression that reads a source; a missing map key gives None."""
    if source.unset_as is not None:
        return source.unset_as
    text = ".".join([source.root or "src", *map(attribute, source.steps)])
    return f"{text}.get({quoted(source.key)})" if source.key is not None else text


def is_set(source: Source) -> str:
    """The expression that is true if the source, or the message that contains it, is set."""
    *parents, name = source.told_by
    owner = ".".join([source.told_root or source.root or "src", *map(attribute, parents)])
    return f"{owner}.HasField({quoted(name)})"


def value_or_none(source: Source) -> str:
    """The value, or None if the message does not set it."""
    return f"({value(source)} if {is_set(source)} else None)"


def place(target: Target) -> str:
    """The expression that addresses a target."""
    text = ".".join([target.root, *map(attribute, target.steps)])
    return f"{text}[{quoted(target.key)}]" if target.key is not None else text


def called(call: Call, names: Names, known: Mapping[str, str]) -> str:
    """The call of a transform; ``known`` are local variables that hold a source's value or None."""
    given = []
    for argument in call.arguments:
        text = value(argument.source)
        if argument.none_if_unset:
            text = known.get(argument.source.path) or value_or_none(argument.source)
        elif argument.items is not None:
            text = built(argument.items, names, text)
        elif argument.converted:
            text = f"{argument.converted}({text})"
        given.append(f"{argument.name}={text}")
    module = names.modules["transforms", call.topic]
    return f"{module}.{call.function}({', '.join(given)})"


def built(items: ItemsOf, names: Names, text: str) -> str:
    """The items that the messages ``text`` become."""
    return f"{names.modules['items', snake(items.message)]}.{items.function}({text})"


def quoted(text: str) -> str:
    """A string literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def in_f_string(text: str) -> str:
    """Text escaped for an f-string."""
    return quoted(text)[1:-1].replace("{", "{{").replace("}", "}}")


def free(name: str, taken: set[str]) -> str:
    """A name that is unused in the function; it is reserved by this call."""
    found = name
    while found in taken or keyword.iskeyword(found):
        found = f"{found}_value"
    taken.add(found)
    return found


def tuple_of(values: Iterable[str]) -> str:
    """A tuple of expressions."""
    listed = list(values)
    return f"({', '.join(listed)}{',' * (len(listed) == 1)})"


def constructor(kind: Kind, data: Any, document: Document) -> str:
    """The expression for ``data`` (decoded JSON) as a value of ``kind``."""
    match kind.name:
        case "object":
            fields = document.classes[kind.ref].fields
            given = [
                f"{fields[key].attribute}={constructor(fields[key].kind, value, document)}"
                for key, value in data.items()
                if key in fields
            ]
            extra = {key: value for key, value in data.items() if key not in fields}
            given += [f"extra={extra!r}"] if extra else []
            return f"types.{kind.ref}({', '.join(given)})"
        case "list":
            return f"[{', '.join(constructor(kind.of[0], item, document) for item in data)}]"
        case "map":
            items = (f"{key!r}: {constructor(kind.of[1], v, document)}" for key, v in data.items())
            return f"{{{', '.join(items)}}}"
    return repr(data)


def literal(data: Any) -> str:
    """Decoded JSON as a Python literal with double-quoted strings."""
    if isinstance(data, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {literal(v)}' for k, v in data.items())}}}"
    if isinstance(data, list | tuple):
        inside = [literal(item) for item in data]
        return tuple_of(inside) if isinstance(data, tuple) else f"[{', '.join(inside)}]"
    return quoted(data) if isinstance(data, str) else repr(data)


def long_text(text: str) -> str:
    """A multi-line text as a Python literal that keeps its lines."""
    safe = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{safe}"""'
