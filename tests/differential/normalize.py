"""Makes values equal that differ by nature: ids, times, paths of a node.

``normalize.yaml`` lists them; this module only applies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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


def normal(value: Any, names: Mapping[str, str], key: str = "") -> Any:
    """The value with every text of ``names`` replaced, then by the rules of the data."""
    if isinstance(value, str) and key in _DOCUMENTS and value[:1] in ("{", "["):
        value = json.loads(value)
    if key in _BY_NATURE and not isinstance(value, list):
        if isinstance(value, dict):  # a wrapper, whose presence counts
            return _BY_NATURE[key]
        return value if value in _ZERO else _BY_NATURE[key]
    if isinstance(value, dict):
        return {text(name, names): normal(below, names, name) for name, below in value.items()}
    if isinstance(value, list):
        made = [normal(item, names) for item in value]
        return sorted(made, key=json.dumps) if key in _UNORDERED else made
    return text(value, names) if isinstance(value, str) else value


def text(value: str, names: Mapping[str, str]) -> str:
    for name in sorted(names, key=len, reverse=True):
        value = value.replace(name, names[name])
    for pattern, replacement in _PATTERNS:
        value = pattern.sub(replacement, value)
    return value
