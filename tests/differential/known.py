"""The deliberate differences of ``known_differences.yaml``."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format
from google.protobuf.message import Message

from generated.cri import api_pb2

from .compare import ABSENT, Difference

FILE = Path(__file__).parent / "known_differences.yaml"
_KEYS = {"paths", "builtin", "ours", "request", "containerd", "reason", "example"}


@dataclass(frozen=True)
class Known:
    """An entry: which differences it explains, and the request that shows one."""

    paths: tuple[str, ...]
    """``*`` stands for a key, ``[*]`` for a key in brackets, ``**`` for any path."""
    reason: str
    example: tuple[Message, ...]
    builtin: str = "*"
    """Pattern of the value as JSON text, as in a shell; ``<absent>`` for a missing value."""
    ours: str = "*"
    request: str = ""
    """A field, as ``CreateContainerRequest.config.tty``, that a step's request must set; with
    ``=PATTERN``, to a text that fits."""
    containerd: tuple[str, ...] = ("",)
    """Beginnings of the versions that differ."""

    def explains(self, found: Difference, steps: Sequence[Message]) -> bool:
        return (
            any(_path_pattern(path).fullmatch(found.path) for path in self.paths)
            and _fits(self.builtin, found.builtin)
            and _fits(self.ours, found.ours)
            and (not self.request or any(_sets(step, self.request) for step in steps))
        )

    def applies_to(self, version: str) -> bool:
        return version.startswith(self.containerd)


def load(path: Path = FILE) -> list[Known]:
    """The entries; ValueError names one that is malformed."""
    entries = []
    for entry in yaml.safe_load(path.read_text())["known"]:
        if missing := {"paths", "reason", "example"} - entry.keys():
            raise ValueError(f"{path.name}: {entry}: lacks {', '.join(sorted(missing))}")
        if unknown := entry.keys() - _KEYS:
            raise ValueError(f"{path.name}: {entry['paths']}: unknown {', '.join(sorted(unknown))}")
        if not entry["reason"].strip():
            raise ValueError(f"{path.name}: {entry['paths']}: the reason is empty")
        example = tuple(parsed(text) for text in entry["example"])
        lists = {name: tuple(entry[name]) for name in ("paths", "containerd") if name in entry}
        entries.append(Known(**entry | lists | {"example": example}))
    return entries


def parsed(text: str) -> Message:
    """A request from ``TypeOfRequest { fields }``, as ``printed`` writes it."""
    name, _, body = text.strip().partition(" ")
    message: Message = getattr(api_pb2, name)()
    text_format.Parse(body.strip().removeprefix("{").removesuffix("}"), message)
    return message


def printed(step: Message) -> str:
    """A request as one line of text format."""
    body = text_format.MessageToString(step, as_one_line=True, as_utf8=True)
    return f"{type(step).__name__} {{ {body} }}"


def unexplained(
    found: Iterable[Difference], steps: Sequence[Message], entries: Iterable[Known]
) -> list[Difference]:
    listed = list(entries)
    return [one for one in found if not any(known.explains(one, steps) for known in listed)]


def _path_pattern(path: str) -> re.Pattern[str]:
    parts = {"**": ".*", r"[*]": r"\[[^\]]*\]", "*": r"[^.\[\]]*"}
    split = re.split(r"(\*\*|\[\*\]|\*)", path)
    # a key of a request can have a line break
    return re.compile("".join(parts.get(part, re.escape(part)) for part in split), re.DOTALL)


def _fits(pattern: str, value: Any) -> bool:
    if pattern == "*":
        return True
    written = value if value == ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return fnmatch.fnmatchcase(written.strip('"'), pattern.replace("[", "[[]"))


def _sets(step: Message, path: str) -> bool:
    path, _, value = path.partition("=")
    kind, *fields = path.split(".")
    return type(step).__name__ == kind and _is_set(step, fields, value or "*")


def _is_set(message: Any, path: Sequence[str], value: str) -> bool:
    if not path:
        return fnmatch.fnmatchcase(str(message), value)
    name, *rest = path
    for field, found in message.ListFields():
        if field.name == name:
            items = found if field.is_repeated else [found]
            return any(_is_set(item, rest, value) for item in items)
    return False
