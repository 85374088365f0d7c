"""What a published API says about its fields and RPCs in comments.

Pinned protos have no comments, so that only what they define is compared. The comments are kept in
the cache when a version is imported, for the stubs that a person decides about next.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto

from codegen import cache, proto_options, protoc
from codegen.errors import SpecError

_SERVICE, _METHOD = 6, 2
_MESSAGE, _FIELD, _NESTED = 4, 2, 3
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


def _key(pinned: str) -> str:
    return cache.digest(b"comments", pinned.encode())


def _described(source: Path) -> FileDescriptorProto:
    text = proto_options.without_foreign(source.read_text(), comments=True)
    return protoc.with_comments(source.name, text)


def comments(file: FileDescriptorProto) -> dict[str, str]:
    """The comments before and behind each field and RPC that has any."""
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


def _names_in(
    message: DescriptorProto, name: str, path: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], str]]:
    for number, field in enumerate(message.field):
        yield (*path, _FIELD, number), f"{name}.{field.name}"
    for number, nested in enumerate(message.nested_type):
        yield from _names_in(nested, f"{name}.{nested.name}", (*path, _NESTED, number))
