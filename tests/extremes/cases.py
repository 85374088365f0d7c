"""Every field of every request at its extremes, made from the descriptors."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Container, Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor

from generated.cri import api_pb2

_HUGE = "x" * 2**20
_MANY = 10_000
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_TEXTS = {
    "empty": "",
    "NUL": "a\0b",
    "1 MiB": _HUGE,
    "path of 1 MiB": f"/{_HUGE}",
    "traversal": "../../../../etc/passwd",
    "absolute traversal": "/tmp/../proc/../tmp/../../proc/self/status/x\n",
    "control characters": "\x01\x1b[31m\r\n\t\x7f\u202e",
    "braces": "{0.__class__} %s %n $(id) `id`",
}
_CLEAR = re.compile(r"[a-zA-Z_]+[\w.]*(\[.*\])?[\w.]*: .+", re.S)
"""A field path, and what is wrong."""
_LONGEST = 8192
"""Bytes that gRPC lets an error have, percent-encoded."""
_WORDS = ("RROUnsupported:", "ImageVolumeMountFailed:")
"""What a kubelet looks for, under UNKNOWN only."""
SERVICES = api_pb2.DESCRIPTOR.services_by_name
RPCS = [method.name for service in SERVICES.values() for method in service.methods]


def message_of(rpc: str) -> Any:
    for service in SERVICES.values():
        if rpc in service.methods_by_name:
            return getattr(api_pb2, service.methods_by_name[rpc].input_type.name)
    raise KeyError(rpc)


def _paths(descriptor: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The fields of a request, also those of messages in it."""
    for field in descriptor.fields:
        if field.name == "windows":
            continue
        yield (*path, field)
        nested = field.message_type
        if nested is not None and not nested.GetOptions().map_entry:
            yield from _paths(nested, (*path, field))


def _extremes(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    """Values of one field, in a form that ``set_field`` takes."""
    nested = field.message_type
    if nested is not None and nested.GetOptions().map_entry:
        yield "many", {f"key{number}": "v" for number in range(_MANY)}
        for name, text in _TEXTS.items():
            yield f"key {name}", {text: "v"}
            yield f"value {name}", {"k": text}
        return
    if field.is_repeated:
        yield "none", []
    if nested is not None:
        empty = getattr(api_pb2, nested.name)()
        yield "empty", [empty] if field.is_repeated else empty
        if field.is_repeated:
            yield "many", [empty] * _MANY
        return
    for name, value in _scalars(field):
        yield name, [value] if field.is_repeated else value
        if field.is_repeated and name in ("empty", "high", "braces"):
            yield f"many {name}", [value] * _MANY


def _scalars(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    if field.enum_type is not None:
        yield from (("unknown", 99), ("negative", -1))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        yield from (("true", True), ("false", False))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield from (("invalid UTF-8", b"\xff\xfe"), ("1 MiB", _HUGE.encode()), ("NUL", b"\0"))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield from _TEXTS.items()
    else:
        low, high = _BOUNDS[field.cpp_type]
        yield from (("low", low), ("-1", max(low, -1)), ("0", 0), ("high", high))


def set_field(request: Any, path: tuple[Any, ...], value: Any) -> None:
    """Give one field of the request the value; the messages above it are added if need be."""
    *above, last = path
    place = request
    for field in above:
        below = getattr(place, field.name)
        if field.is_repeated:
            below = below[0] if below else below.add()
        place = below
    place.ClearField(last.name)
    if isinstance(value, dict):
        getattr(place, last.name).update(value)
    elif isinstance(value, list):
        getattr(place, last.name).extend(value)
    elif last.message_type is not None:
        getattr(place, last.name).CopyFrom(value)
    else:
        setattr(place, last.name, value)


ENDING = ("StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer")
"""What they leave is less."""
_EVERY = 1 if os.environ.get("CRI_TEST_EXTREMES") == "all" else 6
"""Of RPCs that make something, one in this many requests is tried; ``nox -s extremes`` tries
all."""


def cases(rpc: str) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Every field of a request and its values, with a name; a sample for RPCs that make
    something."""
    every = (
        (f"{'.'.join(field.name for field in path)} {name}", path, value)
        for path in _paths(message_of(rpc).DESCRIPTOR)
        for name, value in _extremes(path[-1])
    )
    long = rpc in ("RunPodSandbox", "CreateContainer")
    return itertools.islice(every, 0, None, _EVERY if long else 1)


def unclear(code: grpc.StatusCode, said: str, internal: Container[grpc.StatusCode]) -> str:
    """What is wrong with an error; "" if it is clear. ``internal`` are codes that blame nobody."""
    if "Traceback" in said or (code in internal and not said.startswith(_WORDS)):
        return f"{code.name}: {said[:200]}"
    if code is grpc.StatusCode.INVALID_ARGUMENT and not _CLEAR.match(said):
        return f"names no field: {said[:200]}"
    return f"says {len(said)} characters" if _sent_size(said) > _LONGEST else ""


def _sent_size(said: str) -> int:
    """The bytes of a status text, as gRPC encodes it."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in said.encode())
