"""The messages and enums of a proto file, nested ones included, with their names in the package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
)


def messages_of(
    messages: Iterable[DescriptorProto], scope: str = ""
) -> Iterator[tuple[str, DescriptorProto]]:
    """Every message with its name in the package, except map entries."""
    for message in messages:
        if not message.options.map_entry:
            yield scope + message.name, message
            yield from messages_of(message.nested_type, f"{scope}{message.name}.")


def enums_of(file: FileDescriptorProto) -> Iterator[tuple[str, EnumDescriptorProto]]:
    """Every enum with its name in the package."""
    for enum in file.enum_type:
        yield enum.name, enum
    for name, message in messages_of(file.message_type):
        for enum in message.enum_type:
            yield f"{name}.{enum.name}", enum
