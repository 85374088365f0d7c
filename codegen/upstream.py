"""What a published API says in comments about its messages, fields, enums and RPCs.

Pinned protos have no comments, so that only what they define is compared. The comments are kept in
the cache when a version is imported, for the stubs that a person decides about next, and for what
``diff`` says is new.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
)

from codegen import cache, proto_options
from codegen.errors import SpecError
from codegen.named import Named

_SERVICE, _METHOD = 6, 2
_MESSAGE, _FIELD, _NESTED, _NESTED_ENUM = 4, 2, 3, 4
_ENUM, _VALUE = 5, 2
"""The numbers of fields of descriptors, of which the paths of comments consist."""


def keep(source: Path, pinned: str) -> None:
    """Keep the comments of the published file ``source`` for its normalised text ``pinned``."""
    with contextlib.suppress(SpecError, OSError, UnicodeDecodeError):  # they are only a courtesy
        found = comments(_described(source))
        cache.put(_key(pinned), json.dumps(found).encode())


def kept(pinned: str) -> dict[str, str]:
    """The comments that were kept for a pinned text; nothing if it was imported elsewhere."""
    found = cache.get(_key(pinned))
    said: dict[str, str] = json.loads(found) if found is not None else {}
    return said


def with_comments(changes: Iterable[Named], said: Mapping[str, str]) -> list[Named]:
    """The changes of an API, those that are new with their comments in the later version."""
    return [
        (
            replace(change, comment="\n".join(lines(said.get(change.subject, ""))))
            if change.kind.endswith("-gained")
            else change
        )
        for change in changes
    ]


def lines(comment: str) -> list[str]:
    """The lines of a comment, whatever it contains, in printable characters."""
    return [
        "".join(c if c.isprintable() else " " for c in line).strip()
        for line in comment.splitlines()
    ]


def _key(pinned: str) -> str:
    return cache.digest(b"comments", pinned.encode())


def _described(source: Path) -> FileDescriptorProto:
    from codegen import protoc  # slow to load, and only needed by an import

    text = proto_options.without_foreign(source.read_text(), comments=True)
    return protoc.with_comments(source.name, text)


def comments(file: FileDescriptorProto) -> dict[str, str]:
    """The comments before and behind each message, field, enum, value and RPC that has any."""
    said = {
        tuple(place.path): "\n".join(
            part.strip("\n")
            for part in (
                *place.leading_detached_comments,
                place.leading_comments,
                place.trailing_comments,
            )
            if part.strip()
        )
        for place in file.source_code_info.location
    }
    names = dict(_names(file))
    return {name: said[path] for path, name in names.items() if said.get(path)}


def _names(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for number, service in enumerate(file.service):
        for inner, method in enumerate(service.method):
            yield (_SERVICE, number, _METHOD, inner), f"{service.name}.{method.name}"
    for number, message in enumerate(file.message_type):
        yield from _names_in(message, message.name, (_MESSAGE, number))
    for number, enum in enumerate(file.enum_type):
        yield from _names_of(enum, enum.name, (_ENUM, number))


def _names_in(
    message: DescriptorProto, name: str, path: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for number, field in enumerate(message.field):
        yield (*path, _FIELD, number), f"{name}.{field.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _names_in(nested, f"{name}.{nested.name}", (*path, _NESTED, number))
    for number, enum in enumerate(message.enum_type):
        yield from _names_of(enum, f"{name}.{enum.name}", (*path, _NESTED_ENUM, number))


def _names_of(
    enum: EnumDescriptorProto, name: str, path: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, name
    for number, value in enumerate(enum.value):
        yield (*path, _VALUE, number), f"{name}.{value.name}"
