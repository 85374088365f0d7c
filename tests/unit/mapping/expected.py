"""What the tables of this folder expect, one YAML file each.

After a wanted change, write them anew and read the difference:

    UPDATE_EXPECTED=1 pytest tests/unit/mapping; git diff tests/unit/mapping
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent


def expect(table: str, name: str, found: Any) -> None:
    """Raise AssertionError unless ``found`` is what the table has under ``name``."""
    path = _FOLDER / f"{table}.yaml"
    if os.environ.get("UPDATE_EXPECTED"):
        every = yaml.load(path.read_text(), _Loader) if path.exists() else {}
        every[name] = found
        text = yaml.dump(every, Dumper=_Dumper, width=300, allow_unicode=True)
        path.write_text(text)
        return
    assert found == _table(table).get(name)


@cache
def _table(table: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.load((_FOLDER / f"{table}.yaml").read_text(), _Loader)
    return read


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read_all() -> None:
    """Read every table now, and not when the first test asks for it."""
    for path in _FOLDER.glob("*.yaml"):
        _table(path.stem)


def names(table: str) -> set[str]:
    """What the table has."""
    return set(_table(table))
