"""spec/older.yaml as a model: older packages of the API that the same handlers can serve.

A client of an older package sends and expects the bytes of its own messages. They may be read and
written as messages of the current package where every field, enum value and method of the older one
exists there with the same name, number, type and label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from codegen import load, proto_diff, protoc
from codegen.errors import Problems
from codegen.load import MappingNode
from codegen.nodes import child, items, optional, text
from codegen.proto_walk import enums_of

FILE = "spec/older.yaml"


@dataclass(frozen=True, slots=True)
class OlderMethod:
    """One RPC of an older service; all are unary."""

    name: str
    request: str
    response: str


@dataclass(frozen=True, slots=True)
class OlderService:
    """One service of an older package."""

    name: str
    """With its package."""
    methods: tuple[OlderMethod, ...]


def read(root: Path, current: FileDescriptorProto, problems: Problems) -> tuple[OlderService, ...]:
    """The older services in ``root`` that can be served as ``current``. Differences without a
    decision go to ``problems``; a file that violates its schema raises SpecError."""
    schema = load.language_schema("older")
    node, _ = load.checked_parts(root, FILE, schema, [("*",)], problems)
    found: list[OlderService] = []
    for package, body in items(node):
        proto = child(body, "proto")
        path = text(proto)
        if not (root / path).is_file():
            problems.add(f"{path} does not exist", proto.place, "pin the proto of the package")
            continue
        older = problems.attempt(partial(_descriptor, root, path))
        if older is None:
            continue
        if older.package != package:
            problems.add(f"{path} is of package {older.package}", proto.place)
            continue
        reasons = optional(body, "differs")
        assert reasons is None or isinstance(reasons, MappingNode)
        decided = {key.value: key.place for key, _ in reasons.items()} if reasons else {}
        differing = dict(differences(older, current))
        for part, words in differing.items():
            if part not in decided:
                problems.add(
                    f"{package} cannot be served as {current.package}: {words}",
                    proto.place,
                    f"say under differs: {part} why clients do not notice, or remove the package",
                )
        for part, place in decided.items():
            if part not in differing:
                problems.add(f"{part} does not differ from {current.package}", place, "remove it")
        streams = [m.name for s in older.service for m in s.method if _streams(m)]
        if streams:
            problems.add(
                f"{package} has streams, which are not served: {', '.join(streams)}", proto.place
            )
        found += _services(older)
    return tuple(found)


def _descriptor(root: Path, path: str) -> FileDescriptorProto:
    name = path.removeprefix("spec/")
    return protoc.descriptors({name: load.text_file(root, path)}, {name: path}).file[-1]


def _streams(method: MethodDescriptorProto) -> bool:
    return method.client_streaming or method.server_streaming


def differences(
    older: FileDescriptorProto, current: FileDescriptorProto
) -> Iterator[tuple[str, str]]:
    """Each part of ``older`` that ``current`` lacks or has otherwise: its name, and what differs.

    What only ``current`` has does not count: an older client neither sends it nor reads it. Nor
    does another name, except of an RPC: the others are not sent.
    """
    now, renamed = dict(_parts(current)), proto_diff.renamed(older, current)
    translated = proto_diff.translated(renamed)
    sent = {
        f"{service.name}.{method.name}" for service in older.service for method in service.method
    }
    numbers = {
        f"{owner} number {value.number}"
        for owner, enum in enums_of(current)
        for value in enum.value
    }
    for was, words in _parts(older, translated):
        part = was if was in sent else translated(was)
        if part not in now:
            if f"{part.rpartition('.')[0]} {words}" in numbers:
                continue
            yield was, f"{was} ({words}) does not exist there"
        elif now[part] != words:
            in_both = f"{words} in {older.package} and {now[part]} in {current.package}"
            yield was, f"{was} is {in_both}"


def _parts(
    file: FileDescriptorProto, now: Callable[[str], str] = lambda name: name
) -> Iterator[tuple[str, str]]:
    """Each part of ``file`` and what is said of it; ``now`` gives today's name of a type."""
    prefix = f".{file.package}."

    def local(type_name: str) -> str:
        return now(type_name.removeprefix(prefix))

    for message in file.message_type:
        yield from _message(message, message.name, local)
    for enum in file.enum_type:
        yield from _enum(enum, enum.name)
    for service in file.service:
        for method in service.method:
            yield f"{service.name}.{method.name}", _method(method, local)


def _message(
    message: DescriptorProto, name: str, local: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    for field in message.field:
        yield f"{name}.{field.name}", _field(field, local)
    for nested in message.nested_type:
        yield from _message(nested, f"{name}.{nested.name}", local)
    for enum in message.enum_type:
        yield from _enum(enum, f"{name}.{enum.name}")


def _enum(enum: EnumDescriptorProto, name: str) -> Iterator[tuple[str, str]]:
    for value in enum.value:
        yield f"{name}.{value.name}", f"number {value.number}"


def _field(field: FieldDescriptorProto, local: Callable[[str], str]) -> str:
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = "repeated " * (field.label == FieldDescriptorProto.LABEL_REPEATED)
    named = f" {local(field.type_name)}" if field.type_name else ""
    return f"number {field.number}, {label}{kind}{named}"


def _method(method: MethodDescriptorProto, local: Callable[[str], str]) -> str:
    request, response = (
        f"{'stream ' * streams}{local(name)}"
        for name, streams in (
            (method.input_type, method.client_streaming),
            (method.output_type, method.server_streaming),
        )
    )
    return f"{request} -> {response}"


def _services(older: FileDescriptorProto) -> Iterator[OlderService]:
    prefix = f".{older.package}."
    for service in older.service:
        yield OlderService(
            f"{older.package}.{service.name}",
            tuple(
                OlderMethod(
                    method.name,
                    method.input_type.removeprefix(prefix),
                    method.output_type.removeprefix(prefix),
                )
                for method in service.method
            ),
        )
