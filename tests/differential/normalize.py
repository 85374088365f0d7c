"""Makes values equal that differ by nature: ids, times, paths of a node.

``normalize.yaml`` lists them; this module only applies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

DATA = yaml.safe_load((Path(__file__).parent / "normalize.yaml").read_text())
IDENTITY: dict[str, list[str]] = DATA["identity"]
_BY_NATURE: dict[str, str] = {
    name: f"<{kind}>" for kind, names in DATA["by_nature"].items() for name in names
}
_UNORDERED = frozenset(DATA["unordered"])
_DOCUMENTS = frozenset(DATA["documents"])
_PATTERNS = [(re.compile(entry["match"]), entry["as"]) for entry in DATA["patterns"]]
_ZERO = (0, "0", "", "0001-01-01T00:00:00Z", None)


def normal(value: Any, names: Mapping[str, str]) -> Any:
    """The value with every text of ``names`` replaced, then by the rules of the data."""
    return _normal(value, _replacement(names), "")


def text(value: str, names: Mapping[str, str]) -> str:
    """As ``normal``, of one text."""
    return _replacement(names)(value)


def _replacement(names: Mapping[str, str]) -> Callable[[str], str]:
    longest_first = sorted(names, key=len, reverse=True)
    named = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def replaced(value: str) -> str:
        value = named.sub(lambda found: names[found[0]], value)
        for pattern, replacement in _PATTERNS:
            value = pattern.sub(replacement, value)
        return value

    return replaced


def _normal(value: Any, replaced: Callable[[str], str], key: str) -> Any:
    if isinstance(value, str) and key in _DOCUMENTS and value[:1] in ("{", "["):
        value = json.loads(value)
    if key in _BY_NATURE and not isinstance(value, list):
        # of an object, a wrapper of a number, only its presence counts
        zero = not isinstance(value, dict) and value in _ZERO
        return value if zero else _BY_NATURE[key]
    if isinstance(value, dict):
        return {replaced(name): _normal(below, replaced, name) for name, below in value.items()}
    if isinstance(value, list):
        made = [_normal(item, replaced, "") for item in value]
        return sorted(made, key=json.dumps) if key in _UNORDERED else made
    return replaced(value) if isinstance(value, str) else value
