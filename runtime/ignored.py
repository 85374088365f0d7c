"""Requested fields without effect: fields that the mapping ignores, and fields of a newer CRI that
this server does not know.

Neither affects the response. They are counted, so that an operator can find out which settings of a
kubelet have no effect.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from generated.handlers.ignored import IGNORED


def set_but_ignored(request: Message) -> Iterator[str]:
    """``Message.field`` of every field that is set and has no effect, in the order of the proto."""
    descriptor = request.DESCRIPTOR
    for name in IGNORED.get(descriptor.name, ()):
        if _is_set(request, name):
            yield f"{descriptor.name}.{name}"
    for field, is_list in _to_ignored(descriptor):
        value = getattr(request, field)
        if is_list:
            for item in value:
                yield from set_but_ignored(item)
        elif request.HasField(field):
            yield from set_but_ignored(value)


def unknown(request: Message) -> Iterator[tuple[str, int]]:
    """The message and the number of every field that this version of the CRI lacks."""
    known = type(request)()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    if known.ByteSize() != request.ByteSize():  # rare, and the search is slow
        yield from _unknown(request)


def _unknown(message: Message) -> Iterator[tuple[str, int]]:
    fields = UnknownFieldSet(message)
    for index in range(len(fields)):
        yield message.DESCRIPTOR.name, fields[index].field_number
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else (value,):
            yield from _unknown(item)


def _is_set(message: Message, name: str) -> bool:
    if message.DESCRIPTOR.fields_by_name[name].has_presence:
        return bool(message.HasField(name))
    return bool(getattr(message, name))


@functools.cache
def _to_ignored(descriptor: Descriptor) -> tuple[tuple[str, bool], ...]:
    """The fields of a message that lead to ignored fields, and whether each is a list."""
    return tuple(
        (field.name, field.is_repeated)
        for field in descriptor.fields
        if field.name not in IGNORED.get(descriptor.name, ())
        and field.message_type is not None
        and not field.message_type.GetOptions().map_entry
        and _has_ignored(field.message_type)
    )


@functools.cache
def _has_ignored(descriptor: Descriptor) -> bool:
    return descriptor.name in IGNORED or bool(_to_ignored(descriptor))
