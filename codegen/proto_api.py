"""The pinned protos as an ``Api``, with the version in which each part first appeared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from codegen import project, protoc, stubs
from codegen.errors import Place, Problems, SpecError
from codegen.former import Former
from codegen.load import at, text_file, yaml_file
from codegen.model import Api, Enum, Field, Kind, Message, Method, Service, integer, rpc_key
from codegen.project import ServedApi
from codegen.proto_walk import enums_of, messages_of

_INT32, _INT64 = integer(32, signed=True), integer(64, signed=True)
_UINT32, _UINT64 = integer(32, signed=False), integer(64, signed=False)
_SCALARS: Mapping[int, Kind] = {
    FieldDescriptorProto.TYPE_STRING: Kind("str"),
    FieldDescriptorProto.TYPE_BYTES: Kind("bytes"),
    FieldDescriptorProto.TYPE_BOOL: Kind("bool"),
    FieldDescriptorProto.TYPE_DOUBLE: Kind("float"),
    FieldDescriptorProto.TYPE_FLOAT: Kind("float"),
    FieldDescriptorProto.TYPE_INT32: _INT32,
    FieldDescriptorProto.TYPE_SINT32: _INT32,
    FieldDescriptorProto.TYPE_SFIXED32: _INT32,
    FieldDescriptorProto.TYPE_INT64: _INT64,
    FieldDescriptorProto.TYPE_SINT64: _INT64,
    FieldDescriptorProto.TYPE_SFIXED64: _INT64,
    FieldDescriptorProto.TYPE_UINT32: _UINT32,
    FieldDescriptorProto.TYPE_FIXED32: _UINT32,
    FieldDescriptorProto.TYPE_UINT64: _UINT64,
    FieldDescriptorProto.TYPE_FIXED64: _UINT64,
}


def pinned(root: Path, problems: Problems | None = None) -> dict[str, str]:
    """{version: proto text} of every pinned version, oldest first. With ``problems``, what cannot
    be read is left out and recorded there."""
    served, found = project.read(root).api, Problems()
    texts = {
        version: text
        for version in stubs.versions(root)
        if (text := found.attempt(partial(text_file, root, served.proto(version)))) is not None
    }
    if problems is None:
        found.stop_if_any()
    else:
        problems.extend(found)
    return texts


_PACKAGE = re.compile(r"^package ([\w.]+);", re.M)


def check_package(root: Path) -> None:
    """Raise SpecError if spec/project.yaml names another package than all pinned versions do: that
    every proto and every mapping file is of another one would only follow."""
    served, texts = project.read(root).api, pinned(root, Problems())
    found = {m[1] if (m := _PACKAGE.search(text)) else "" for text in texts.values()}
    if len(found) == 1 and served.package not in found and "" not in found:
        raise SpecError(
            f"package is {served.package}, but the protos in {served.protos} are of {found.pop()}",
            at(yaml_file(root, project.FILE), ["api", "package"]).place,
            "write theirs, or import the protos of this one",
        )


def load(served: ServedApi, versions: Mapping[str, str], current: str, problems: Problems) -> Api:
    """The API of ``current``; older ``versions`` only determine ``since``.

    The faults of every proto that does not compile go to ``problems``; raises SpecError if it is
    the current one.
    """
    since: dict[tuple[str, ...], str] = {}
    older = [v for v in versions if stubs.order(v) < stubs.order(current)]
    found = {
        version: problems.attempt(partial(descriptor, served, version, versions[version]))
        for version in [*older, current]
    }
    newest = found[current]
    if newest is None:
        problems.stop_if_any()
        raise AssertionError("a proto without faults has a descriptor")
    for version, file in found.items():
        for key in _parts(file) if file is not None else ():
            since.setdefault(key, version)
    before = {v: file for v, file in found.items() if v != current and file is not None}
    return replace(
        api(newest, current, since, served.name),
        former=Former(newest, current, served.name, before),
    )


def descriptor(
    served: ServedApi, version: str, text: str, shown_as: str | None = None
) -> FileDescriptorProto:
    """The descriptor of one version; raises SpecError if it does not compile or belongs to
    another package, naming the file as ``shown_as`` (default: its path below spec/)."""
    name = f"{served.folder}/{version}.proto"
    shown = shown_as or served.proto(version)
    found = protoc.descriptors({name: text}, {name: shown}).file[-1]
    if found.syntax != "proto3":
        raise SpecError(
            f"is written in {found.syntax or 'proto2'}; a {served.name} definition is proto3",
            Place(shown, 1, 1) if shown_as is None else Place(shown),
        )
    if found.package != served.package:
        written = _PACKAGE.search(text)
        line = text.count("\n", 0, written.start()) + 1 if written is not None else 1
        raise SpecError(
            f"is of package {found.package or '(none)'}, not {served.package}",
            Place(shown, line, 1) if shown_as is None else Place(shown),
            None if shown_as is None else f"{project.FILE} names the package",
        )
    return found


def api(
    file: FileDescriptorProto,
    version: str,
    since: Mapping[tuple[str, ...], str] | None = None,
    name: str = "API",
) -> Api:
    """The model of one descriptor; without ``since``, every part is as old as ``version``."""
    born = since or {}
    messages = {
        name: Message(
            name,
            {
                f.name: _field(f, message, file.package, born.get((name, f.name), version))
                for f in message.field
            },
            born.get((name,), version),
        )
        for name, message in messages_of(file.message_type)
    }
    enums = {
        name: Enum(name, {value.name: value.number for value in enum.value})
        for name, enum in enums_of(file)
    }
    return Api(name, version, file.package, messages, enums, _services(file, born, version))


def rpc_keys(file: FileDescriptorProto) -> dict[tuple[str, str], str]:
    """{(service, RPC): its key in rpc.yaml}."""
    services = _services(file, {}, "")
    return {
        (service, method): rpc_key(service, method, services)
        for service, one in services.items()
        for method in one.methods
    }


def _services(
    file: FileDescriptorProto, born: Mapping[tuple[str, ...], str], version: str
) -> dict[str, Service]:
    return {
        service.name: Service(
            service.name,
            {
                m.name: Method(
                    m.name,
                    _local(m.input_type, file.package),
                    _local(m.output_type, file.package),
                    m.server_streaming,
                    m.client_streaming,
                    born.get((service.name, m.name), version),
                )
                for m in service.method
            },
        )
        for service in file.service
    }


def _parts(file: FileDescriptorProto) -> Iterator[tuple[str, ...]]:
    """Keys of everything that has a ``since``: messages, fields, methods."""
    for name, message in messages_of(file.message_type):
        yield (name,)
        for field in message.field:
            yield name, field.name
    for service in file.service:
        for method in service.method:
            yield service.name, method.name


def _field(field: FieldDescriptorProto, owner: DescriptorProto, package: str, since: str) -> Field:
    kind = _kind(field, package)
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    if repeated:
        entry = _map_entry(field, owner)
        kind = (
            Kind("map", of=(_kind(entry.field[0], package), _kind(entry.field[1], package)))
            if entry
            else Kind("list", of=(kind,))
        )
    return Field(
        field.name,
        field.number,
        kind,
        presence=not repeated
        and (kind.name == "message" or field.proto3_optional or field.HasField("oneof_index")),
        deprecated=field.options.deprecated,
        redacted=field.options.debug_redact,
        since=since,
    )


def _kind(field: FieldDescriptorProto, package: str) -> Kind:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return Kind("message", _local(field.type_name, package))
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        return Kind("enum", _local(field.type_name, package))
    return _SCALARS[field.type]


def _map_entry(field: FieldDescriptorProto, owner: DescriptorProto) -> DescriptorProto | None:
    last = field.type_name.rpartition(".")[2]
    return next((n for n in owner.nested_type if n.name == last and n.options.map_entry), None)


def _local(type_name: str, package: str) -> str:
    return type_name.removeprefix(f".{package}.").removeprefix(".")
