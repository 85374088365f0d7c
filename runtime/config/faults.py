"""Where a configuration file is wrong, and what is allowed there."""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

import msgspec

from runtime.config.tables import Config

_AT: Final = re.compile(r" - at `\$(?P<path>.*)`$")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<key>.*?)`")
_TYPE_WORDS: Final = {
    "str": "a string",
    "int": "an integer",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "float": "a number",
    "datetime": "a date",
}


def explained(
    error: msgspec.ValidationError,
    name: str,
    text: str,
    *,
    table: tuple[str, ...] = (),
    kind: type = Config,
) -> str:
    """msgspec's error as a sentence with file, line, key and what is allowed.

    The error is that of converting the table at ``table`` into a ``kind``.
    """
    message = str(error)
    at = _AT.search(message)
    below = _path(at["path"]) if at else ()
    path = (*table, *below)
    message = _AT.sub("", message)
    unknown = _UNKNOWN.match(message)
    if unknown:
        key = (*path, unknown["key"])
        allowed = _keys_at(below, kind)
        near = difflib.get_close_matches(unknown["key"], allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return (
            f"{place(name, text, key)}: {_dotted(key)}: unknown key; {hint}"
            f"allowed here: {', '.join(allowed)}"
        )
    wrong = re.fullmatch(r"Expected `(.+?)`, got `(.+?)`", message)
    if wrong:
        expected, got = (_TYPE_WORDS.get(word, word) for word in wrong.groups())
        message = f"must be {expected}, not {got}"
    choices = _choices_at(below, kind) if "enum value" in message else ()
    if choices:
        message = f"must be one of {', '.join(repr(choice) for choice in choices)}"
    return f"{place(name, text, path)}: {_dotted(path) or 'the file'}: {message}"


def _path(text: str) -> tuple[str, ...]:
    """The key path for ``.containerd.runtimes[...].options``; msgspec hides the name of a map's
    key."""
    return tuple(step for step in re.split(r"\.|(\[\.\.\.\]|\[\d+\])", text) if step)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path).replace("[...]", "NAME").replace(".[", "[")


def _type_at(path: tuple[str, ...], of: type) -> Any:
    kind = msgspec.inspect.type_info(of)
    for step in path:
        if isinstance(kind, msgspec.inspect.StructType):
            kind = next((f.type for f in kind.fields if f.encode_name == step), kind)
        elif isinstance(kind, msgspec.inspect.DictType):
            kind = kind.value_type
    return kind


def _keys_at(path: tuple[str, ...], of: type) -> list[str]:
    kind = _type_at(path, of)
    fields = kind.fields if isinstance(kind, msgspec.inspect.StructType) else ()
    return [field.encode_name for field in fields]


def _choices_at(path: tuple[str, ...], of: type) -> tuple[Any, ...]:
    kind = _type_at(path, of)
    return tuple(kind.values) if isinstance(kind, msgspec.inspect.LiteralType) else ()


_HEADER: Final = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]+")
_ASSIGNED: Final = re.compile(r"""\s*([\w"'.\- ]+?)\s*=""")


def place(name: str, text: str, key: tuple[str, ...]) -> str:
    """``file:line`` of the line that best matches ``key``; ``file`` if none does."""
    table: tuple[str, ...] = ()
    best, line_of_best = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        assigned = _ASSIGNED.match(line)
        if header:
            table = _steps(header[1])
            here = table
        elif assigned:
            here = (*table, *_steps(assigned[1]))
        else:
            continue
        common = _common(here, key)
        if common > best and common == min(len(here), len(key)):
            best, line_of_best = common, number
    return f"{name}:{line_of_best}" if line_of_best else name


def _steps(dotted: str) -> tuple[str, ...]:
    return tuple(step.strip(" \"'") for step in re.split(r"\s*\.\s*", dotted))


def _common(here: tuple[str, ...], key: tuple[str, ...]) -> int:
    """How many leading steps agree; ``[...]`` matches every name."""
    count = 0
    for ours, theirs in zip(here, key, strict=False):
        if ours != theirs and not theirs.startswith("["):
            break
        count += 1
    return count
