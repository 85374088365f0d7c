"""``cri-codegen import``: published API definitions become normalised files under ``spec/``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import DecodeError

from codegen import load, proto_api, proto_text, protoc, stubs
from codegen.errors import Place, SpecError, one_of


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a descriptor set that become one file of ``spec/containerd``: those of
    ``package`` whose path ends with ``suffix``."""

    package: str
    suffix: str = ".proto"

    def takes(self, file: FileDescriptorProto) -> bool:
        return file.package == self.package and file.name.endswith(self.suffix)


def _service(name: str) -> Selection:
    return Selection(f"containerd.services.{name}.v1", f"services/{name}/v1/{name}.proto")


# spec/containerd/<name>.proto and its sources. Types of one package that are published in several
# files become one file: the split has no use here, and imports get shorter.
CONTAINERD: Mapping[str, Selection] = {
    "cgroup1_metrics": Selection("io.containerd.cgroups.v1"),
    "cgroup2_metrics": Selection("io.containerd.cgroups.v2"),
    "containers": _service("containers"),
    "content": _service("content"),
    "diff": _service("diff"),
    "events": _service("events"),
    "image_events": Selection("containerd.services.images.v1", "events/image.proto"),
    "images": _service("images"),
    "introspection": _service("introspection"),
    "leases": _service("leases"),
    "namespaces": Selection("containerd.services.namespaces.v1"),
    "rpc_status": Selection("google.rpc"),
    "runc_options": Selection("containerd.runc.v1"),
    "runtime_options": Selection("runtimeoptions.v1"),
    "sandbox": _service("sandbox"),
    "snapshots": _service("snapshots"),
    "task_events": Selection("containerd.events"),
    "task_types": Selection("containerd.v1.types"),
    "tasks": _service("tasks"),
    "types": Selection("containerd.types"),
    "version": _service("version"),
}

_WELL_KNOWN = "google/protobuf/"
ORIGINS = "spec/cri/origins.json"
"""{version: name and SHA-256 of the file that it was imported from}."""


def cri(source: Path) -> str:
    """The normalised text of the one CRI file in ``source``."""
    files = [f for f in _read(source).file if f.service]
    if len(files) != 1:
        raise SpecError(
            f"holds {len(files)} files with services; a CRI definition is exactly one",
            Place(str(source)),
            "for a set of containerd files use --containerd",
        )
    if files[0].syntax != "proto3":
        raise SpecError(
            f"is written in {files[0].syntax or 'proto2'}; a CRI definition is proto3",
            Place(str(source)),
            "give the api.proto that Kubernetes publishes in cri-api",
        )
    return proto_text.file_text(files[0])


def pin(root: Path, source: Path, version: str, *, replace: bool) -> dict[str, str]:
    """The files that pin ``source`` as one version of the CRI, as {path: text}.

    Raises SpecError if ``version`` is not a Kubernetes minor, if ``source`` is not a CRI, or if
    the version is pinned with different content and shall not be replaced.
    """
    if not stubs.is_version(version):
        raise SpecError(
            "is not a version of the CRI",
            Place(f"--as {version!r}"),
            "give the Kubernetes minor, as in --as 1.36",
        )
    if not (root / "spec/cri").is_dir():
        raise SpecError(
            "has no folder spec/cri, so it is not a project", Place(str(root)), "correct --root"
        )
    name = f"spec/cri/{version}.proto"
    text = cri(source)
    proto_api.descriptor(version, text, shown_as=str(source))
    if not replace and (root / name).exists() and load.text_file(root, name) != text:
        raise SpecError(
            f"is pinned, and {source} differs from it",
            Place(name),
            f"pin it under another version and compare the two with cri-codegen diff, "
            f"or replace {version} with --force",
        )
    return {name: text, ORIGINS: _with_origin(root, source, version)}


def _with_origin(root: Path, source: Path, version: str) -> str:
    """The text of ``ORIGINS`` with one more entry."""
    origins = {}
    if (root / ORIGINS).exists():
        origins = load.json_file(root, ORIGINS)
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
        try:
            if path.exists() and path.read_bytes() == text.encode():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        except OSError as error:
            raise SpecError(f"cannot be written: {error.strerror}", Place(name)) from error
        yield name


def containerd(source: Path) -> dict[str, str]:
    """Every file of ``CONTAINERD`` that ``source`` contains, as {name: normalised text}."""
    files = list(_read(source).file)
    chosen = {
        name: [f for f in files if selection.takes(f)] for name, selection in CONTAINERD.items()
    }
    homes = {
        type_name: f"containerd/{name}.proto"
        for name, members in chosen.items()
        for member in members
        for type_name in _types_of_file(member)
    }
    for file in files:
        if file.name.startswith(_WELL_KNOWN):
            homes |= {type_name: file.name for type_name in _types_of_file(file)}
    texts = {
        name: proto_text.file_text(_merge(name, members, homes, source))
        for name, members in chosen.items()
        if members
    }
    if not texts:
        raise SpecError(
            "holds none of the containerd packages in use",
            Place(str(source)),
            one_of(sorted({selection.package for selection in CONTAINERD.values()})),
        )
    return texts


def _read(source: Path) -> FileDescriptorSet:
    """The descriptors in ``source``, which is a descriptor set or ``.proto`` text."""
    try:
        if source.suffix == ".proto":
            text = without_foreign_options(load.text_file(Path(), str(source)))
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


_COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)
_FOREIGN_IMPORT = re.compile(r'^\s*import\s+"[^"]*gogo\.proto"\s*;', re.M)
_FILE_OPTION = re.compile(r"\boption\s+\([\w.]+\)[\w.]*\s*=\s*[^;]+;")
_FIELD_OPTION = r"\(\s*[\w.]+\s*\)[\w.]*\s*=\s*(?:\"[^\"]*\"|[\w.+-]+)"
_ONLY_OPTIONS = re.compile(rf"\[\s*{_FIELD_OPTION}(?:\s*,\s*{_FIELD_OPTION})*\s*\]")
_LATER_OPTION = re.compile(rf",\s*{_FIELD_OPTION}")
_FIRST_OPTION = re.compile(rf"\[\s*{_FIELD_OPTION}\s*,")


def without_foreign_options(text: str) -> str:
    """``text`` without comments and without extension options such as gogoproto's, which are
    defined elsewhere and do not affect the wire format. Line numbers are kept."""
    text = _COMMENT_OR_STRING.sub(
        lambda m: m[0] if m[0].startswith('"') else "\n" * m[0].count("\n"), text
    )
    for pattern, replacement in (
        (_FOREIGN_IMPORT, ""),
        (_FILE_OPTION, ""),
        (_ONLY_OPTIONS, ""),
        (_LATER_OPTION, ""),
        (_FIRST_OPTION, "["),
    ):
        text = pattern.sub(partial(_with_lines_kept, replacement), text)
    return text


def _with_lines_kept(replacement: str, match: re.Match[str]) -> str:
    return replacement + "\n" * match[0].count("\n")


def _merge(
    name: str, members: list[FileDescriptorProto], homes: Mapping[str, str], source: Path
) -> FileDescriptorProto:
    """One file with the types of all ``members``, importing the files of the types it uses."""
    own = f"containerd/{name}.proto"
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
            "add the file that defines it to CONTAINERD in codegen/proto_import.py",
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
