"""Messages of protobuf itself, which every installation has, and the Python classes for them."""

from __future__ import annotations

import functools
from importlib import import_module

PACKAGE = "google.protobuf"
_MODULES = (
    "any_pb2", "duration_pb2", "empty_pb2", "field_mask_pb2", "struct_pb2", "timestamp_pb2",
    "wrappers_pb2",
)  # fmt: skip


@functools.cache
def module(message: str) -> str | None:
    """The module of protobuf with the class of a message; None if the message is not its own."""
    package, _, name = message.rpartition(".")
    if package != PACKAGE:
        return None
    modules = ((one, import_module(f"{PACKAGE}.{one}")) for one in _MODULES)
    return next((one for one, m in modules if name in m.DESCRIPTOR.message_types_by_name), None)


def python_class(message: str) -> str:
    """The class of a message of the API or of protobuf, as generated code names it."""
    found = module(message)
    return f"{found}.{message.rpartition('.')[2]}" if found else f"api_pb2.{message}"
