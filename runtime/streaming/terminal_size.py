"""The resize channel: a sequence of JSON objects ``{"Width": 80, "Height": 24}``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

MAX_BYTES: Final = 4096
"""Largest size of one object."""

_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Size:
    """Columns and rows, both at least 1."""

    width: int
    height: int


class Sizes:
    """Collects bytes and returns the sizes that they complete."""

    def __init__(self) -> None:
        self._text = ""

    def receive(self, data: bytes) -> list[Size]:
        """The sizes; zero sizes are ignored. Raises ValueError for anything but such objects."""
        found = []
        # these objects are ASCII; any other byte decodes to something that JSON rejects
        text = (self._text + data.decode("latin-1")).lstrip()
        while text:
            try:
                value, end = _DECODER.raw_decode(text)
            except (json.JSONDecodeError, RecursionError):
                if len(text) > MAX_BYTES or text[0] != "{" or "}" in text:
                    raise ValueError("the resize channel takes JSON objects") from None
                break
            text = text[end:].lstrip()
            size = _size(value)
            if size.width and size.height:
                found.append(size)
        self._text = text
        return found


def _size(value: object) -> Size:
    """Names in any case, as Go reads JSON."""
    if isinstance(value, dict):
        fields = {str(name).lower(): number for name, number in value.items()}
        width, height = fields.get("width", 0), fields.get("height", 0)
        if all(type(side) is int and 0 <= side < 1 << 16 for side in (width, height)):
            return Size(width, height)
    raise ValueError("Width and Height must be 0 to 65535")
