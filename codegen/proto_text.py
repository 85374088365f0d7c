"""Writes a file descriptor as normalised ``.proto`` text.

Reviewers read this text when an API changes, so equal descriptors give equal text: no comments, no
language options, one blank line between blocks, declaration order kept. Everything the generator
needs is kept: ``deprecated``, ``debug_redact``, ``packed``, ``json_name`` and reservations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

_SCALARS: Mapping[int, str] = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in FieldDescriptorProto.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_ENUM", "TYPE_GROUP")
}
_MAX_FIELD = 1 << 29  # exclusive end of "to max" for messages; protoc stores 536870912
_MAX_ENUM = (1 << 31) - 1  # inclusive end of "to max" for enums


def file_text(file: FileDescriptorProto) -> str:
    """The whole file, services first, then messages, then enums, each in declaration order."""
    blocks = [
        *(_service(service, file.package) for service in file.service),
        *(_message(message, file.package) for message in file.message_type),
        *(_enum(enum) for enum in file.enum_type),
    ]
    head = [f'syntax = "{file.syntax or "proto2"}";']
    if file.package:
        head += ["", f"package {file.package};"]
    if file.dependency:
        head += ["", *(f'import "{name}";' for name in sorted(file.dependency))]
    return "\n".join(head) + "\n" + "".join("\n" + _join(block) for block in blocks)


def definitions(message: DescriptorProto, package: str) -> dict[str, str]:
    """{field: its definition without the name}, as in ``repeated string = 3``."""
    entries = {n.name: n for n in message.nested_type if n.options.map_entry}
    found = {}
    for field in message.field:
        kind, number = _kind(field, entries, package), f"{field.number}{_field_options(field)}"
        inside = field.HasField("oneof_index") and not field.proto3_optional
        oneof = f"oneof {message.oneof_decl[field.oneof_index].name} " if inside else ""
        found[field.name] = f"{oneof}{kind} = {number}"
    return found


def signature(method: MethodDescriptorProto, package: str) -> str:
    """An RPC without its name, as in ``(Request) returns (stream Response)``."""
    old = " [deprecated = true]" if method.options.deprecated else ""
    return _messages(method, package) + old


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" if line else "" for line in lines]


def _block(head: str, parts: Sequence[Sequence[str]]) -> list[str]:
    """``head {`` parts ``}``; nested blocks are separated by a blank line, plain lines are not."""
    parts = [part for part in parts if part]
    if not parts:
        return [f"{head} {{}}"]
    lines: list[str] = []
    for part in parts:
        if lines and (len(part) > 1 or lines[-1] == "}"):
            lines.append("")
        lines += part
    return [f"{head} {{", *_indent(lines), "}"]


def _relative(type_name: str, package: str) -> str:
    """The shortest unambiguous name: without the package if it is the file's own."""
    prefix = f".{package}."
    if type_name.startswith(prefix):
        return type_name.removeprefix(prefix)
    return type_name.removeprefix(".")


def _service(service: ServiceDescriptorProto, package: str) -> list[str]:
    return _block(
        f"service {service.name}", [_method(method, package) for method in service.method]
    )


def _method(method: MethodDescriptorProto, package: str) -> list[str]:
    head = f"rpc {method.name}{_messages(method, package)}"
    if method.options.deprecated:
        return [f"{head} {{", "    option deprecated = true;", "}"]
    return [f"{head} {{}}"]


def _messages(method: MethodDescriptorProto, package: str) -> str:
    asked = "stream " * method.client_streaming + _relative(method.input_type, package)
    given = "stream " * method.server_streaming + _relative(method.output_type, package)
    return f"({asked}) returns ({given})"


def _message(message: DescriptorProto, package: str) -> list[str]:
    entries = {n.name: n for n in message.nested_type if n.options.map_entry}
    parts: list[list[str]] = []
    if message.options.deprecated:
        parts.append(["option deprecated = true;"])
    parts += [_enum(enum) for enum in message.enum_type]
    parts += [
        _message(nested, package) for nested in message.nested_type if nested.name not in entries
    ]
    parts += [
        [line]
        for line in _reserved(
            [(r.start, r.end - 1) for r in message.reserved_range],
            message.reserved_name,
            _MAX_FIELD - 1,
        )
    ]
    written: set[int] = set()
    for field in message.field:
        if not field.HasField("oneof_index") or field.proto3_optional:
            parts.append([_field(field, entries, package)])
        elif field.oneof_index not in written:
            written.add(field.oneof_index)
            members = [
                [_field(f, entries, package)]
                for f in message.field
                if f.HasField("oneof_index") and f.oneof_index == field.oneof_index
            ]
            parts.append(_block(f"oneof {message.oneof_decl[field.oneof_index].name}", members))
    return _block(f"message {message.name}", parts)


def _field(
    field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto], package: str
) -> str:
    kind = _kind(field, entries, package)
    return f"{kind} {field.name} = {field.number}{_field_options(field)};"


def _kind(field: FieldDescriptorProto, entries: Mapping[str, DescriptorProto], package: str) -> str:
    """The label and the type."""
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = entry.field
        return f"map<{_type(key, package)}, {_type(value, package)}>"
    kind = _type(field, package)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _type(field: FieldDescriptorProto, package: str) -> str:
    return _relative(field.type_name, package) if field.type_name else _SCALARS[field.type]


def _field_options(field: FieldDescriptorProto) -> str:
    options = []
    if field.options.HasField("packed"):
        options.append(f"packed = {str(field.options.packed).lower()}")
    if field.json_name and field.json_name != _default_json_name(field.name):
        options.append(f'json_name = "{field.json_name}"')
    if field.options.deprecated:
        options.append("deprecated = true")
    if field.options.debug_redact:
        options.append("debug_redact = true")
    return f" [{', '.join(options)}]" if options else ""


def _default_json_name(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _enum(enum: EnumDescriptorProto) -> list[str]:
    options = ["option deprecated = true;"] if enum.options.deprecated else []
    if enum.options.allow_alias:
        options.append("option allow_alias = true;")
    reserved = _reserved(
        [(r.start, r.end) for r in enum.reserved_range], enum.reserved_name, _MAX_ENUM
    )
    values = [
        f"{v.name} = {v.number}{' [deprecated = true]' if v.options.deprecated else ''};"
        for v in enum.value
    ]
    return _block(f"enum {enum.name}", [[line] for line in (*options, *reserved, *values)])


def _reserved(ranges: Sequence[tuple[int, int]], names: Sequence[str], last: int) -> list[str]:
    """Reservation lines; ``ranges`` have inclusive ends."""
    lines = []
    if ranges:
        spans = [
            str(low) if low == high else f"{low} to {'max' if high == last else high}"
            for low, high in ranges
        ]
        lines.append(f"reserved {', '.join(spans)};")
    if names:
        quoted = ", ".join(f'"{name}"' for name in names)
        lines.append(f"reserved {quoted};")
    return lines
