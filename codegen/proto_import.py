"""``cri-codegen import``: published API definitions become normalised files under ``spec/``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import DecodeError

from codegen import load, project, proto_api, proto_options, proto_text, protoc, stubs, upstream
from codegen.errors import Place, SpecError, one_of
from codegen.project import ServedApi
from codegen.write import replace

_WELL_KNOWN = "google/protobuf/"
ORIGINS = "origins.json"
"""{version: name and SHA-256 of the file that it was imported from}."""


def api(source: Path, served: ServedApi) -> str:
    """The normalised text of the one file in ``source`` that defines the API."""
    files = [f for f in _read(source).file if f.service]
    if len(files) != 1:
        raise SpecError(
            f"holds {len(files)} files with services; a {served.name} definition is exactly one",
            Place(str(source)),
            "for the protos of other APIs use --clients",
        )
    if files[0].syntax != "proto3":
        raise SpecError(
            f"is written in {files[0].syntax or 'proto2'}; a {served.name} definition is proto3",
            Place(str(source)),
            f"give the proto that defines {served.package}",
        )
    return proto_text.file_text(files[0])


def pin(root: Path, source: Path, version: str, *, replace: bool) -> dict[str, str]:
    """The files that pin ``source`` as one version of the API, as {path: text}.

    Raises SpecError if ``version`` is none, if ``source`` does not define the API, or if
    the version is pinned with different content and shall not be replaced.
    """
    if not stubs.is_version(version):
        raise SpecError(
            "is not a version",
            Place(f"--as {version!r}"),
            "give major and minor, as in --as 1.36",
        )
    served = project.read(root).api
    name, origins = served.proto(version), f"{served.protos}/{ORIGINS}"
    text = api(source, served)
    proto_api.descriptor(served, version, text, shown_as=str(source))
    if not replace and (root / name).exists() and load.text_file(root, name) != text:
        raise SpecError(
            f"is pinned, and {source} differs from it",
            Place(name),
            f"pin it under another version and compare the two with cri-codegen diff, "
            f"or replace {version} with --force",
        )
    if source.suffix == ".proto":
        upstream.keep(source, text)
    found = {name: text, origins: _with_origin(root, origins, source, version)}
    current = f"{served.protos}/current"
    return found if (root / current).exists() else {**found, current: f"{version}\n"}


def _with_origin(root: Path, file: str, source: Path, version: str) -> str:
    """The text of the file ``ORIGINS`` with one more entry."""
    origins = {}
    if (root / file).exists():
        origins = load.json_file(root, file)
    origins[version] = {
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    in_order = {known: origins[known] for known in sorted(origins, key=_age)}
    return json.dumps(in_order, indent=2) + "\n"


def _age(version: str) -> tuple[int, ...]:
    return stubs.order(version) if stubs.is_version(version) else ()


def write(root: Path, texts: Mapping[str, str]) -> Iterator[str]:
    """Write ``texts`` ({path below root: text}) and yield the path of each file that changed."""
    for name, text in texts.items():
        path = root / name
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        replace(path, text, name)
        yield name


def clients(root: Path, source: Path) -> dict[str, str]:
    """The protos of other APIs that ``source`` contains, as {path: normalised text}.

    Types of one package that are published in several files become one file: the split has no use
    here, and imports get shorter.
    """
    wanted = project.read(root).clients
    if wanted is None:
        raise SpecError("has no clients, so nothing is imported for them", Place(project.FILE))
    files = list(_read(source).file)
    chosen = {
        name: [f for f in files if selection.takes(f.package, f.name)]
        for name, selection in wanted.files.items()
    }
    homes = {
        type_name: f"{wanted.folder}/{name}.proto"
        for name, members in chosen.items()
        for member in members
        for type_name in _types_of_file(member)
    }
    for file in files:
        if file.name.startswith(_WELL_KNOWN):
            homes |= {type_name: file.name for type_name in _types_of_file(file)}
    texts = {
        f"{wanted.protos}/{name}.proto": proto_text.file_text(
            _merge(f"{wanted.folder}/{name}.proto", members, homes, source)
        )
        for name, members in chosen.items()
        if members
    }
    if not texts:
        raise SpecError(
            f"holds none of the {wanted.name} in use",
            Place(str(source)),
            one_of(sorted({selection.package for selection in wanted.files.values()})),
        )
    return texts


def _read(source: Path) -> FileDescriptorSet:
    """The descriptors in ``source``, which is a descriptor set or ``.proto`` text."""
    if source.exists() and not source.is_file():  # such as a pipe, which could be without end
        raise SpecError("is no file", Place(str(source)), "write what it holds to a file")
    try:
        if source.suffix == ".proto":
            text = proto_options.without_foreign(load.text_file(Path(), str(source)))
            return protoc.descriptors({source.name: text}, {source.name: str(source)})
        return FileDescriptorSet.FromString(source.read_bytes())
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", Place(str(source))) from error
    except DecodeError as error:
        raise SpecError(
            "is not a descriptor set",
            Place(str(source)),
            "give the output of protoc --descriptor_set_out, or a file that ends with .proto",
        ) from error


def _merge(
    own: str, members: list[FileDescriptorProto], homes: Mapping[str, str], source: Path
) -> FileDescriptorProto:
    """One file with the types of all ``members``, importing the files of the types it uses."""
    merged = FileDescriptorProto(name=own, package=members[0].package, syntax=members[0].syntax)
    for member in sorted(members, key=lambda file: file.name):
        merged.service.extend(member.service)
        merged.message_type.extend(member.message_type)
        merged.enum_type.extend(member.enum_type)
    used = set(_types_used(merged))
    missing = sorted(used - homes.keys())
    if missing:
        raise SpecError(
            f"{merged.package} uses {', '.join(missing)}, which no imported file defines",
            Place(str(source)),
            f"add the file that defines it to clients.files in {project.FILE}",
        )
    merged.dependency.extend(sorted({homes[type_name] for type_name in used} - {own}))
    return merged


def _types_of_file(file: FileDescriptorProto) -> Iterator[str]:
    yield from _types_defined(f".{file.package}", file.message_type, file.enum_type)


def _types_defined(
    scope: str, messages: Iterable[DescriptorProto], enums: Iterable[EnumDescriptorProto]
) -> Iterator[str]:
    for enum in enums:
        yield f"{scope}.{enum.name}"
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name
        yield from _types_defined(name, message.nested_type, message.enum_type)


def _types_used(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        for method in service.method:
            yield from (method.input_type, method.output_type)
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending += message.nested_type
        yield from (field.type_name for field in message.field if field.type_name)
