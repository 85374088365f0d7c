"""Runs the protoc of grpcio-tools inside this process."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from codegen import cache
from codegen.errors import Fault, Place, SpecError

_SYNTAX = re.compile(r"Expected|Unexpected|Unmatched|Reached end|Missing|Need|Invalid|Multiple")
"""Errors of protoc's parser, after which others of the same file are about nothing."""
_IMPORT = re.compile(r'Import "([^"]+)" was not found or had errors')
_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?P<column>\d+): (?P<message>.+)$", re.M)


def descriptors(
    protos: Mapping[str, str], shown_as: Mapping[str, str] = MappingProxyType({})
) -> FileDescriptorSet:
    """The descriptor set of ``protos`` ({import path: text}) and everything they import.

    ``shown_as`` gives, for an import path, the path used in errors. Raises SpecError with the
    places that protoc reports.
    """
    return FileDescriptorSet.FromString(_descriptors(protos, shown_as))


def with_comments(name: str, text: str) -> FileDescriptorProto:
    """The descriptor of one proto with ``source_code_info``, which has its comments; raises
    SpecError as ``descriptors`` does."""
    made = FileDescriptorSet.FromString(_described({name: text}, {}, "--include_source_info"))
    return made.file[-1]


def check(protos: Mapping[str, str], shown_as: Mapping[str, str]) -> None:
    """Raise SpecError if ``protos`` do not compile."""
    _descriptors(protos, shown_as)


def _descriptors(protos: Mapping[str, str], shown_as: Mapping[str, str]) -> bytes:
    made = partial(_described, protos, shown_as)
    return cache.made_once("descriptors", _parts(protos), made)


def _parts(protos: Mapping[str, str], *more: str) -> tuple[bytes, ...]:
    words = [version("grpcio-tools"), *more, *(word for item in protos.items() for word in item)]
    return tuple(word.encode() for word in words)


def _described(protos: Mapping[str, str], shown_as: Mapping[str, str], *more: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _lay_out(root, protos)
        out = root / "set.binpb"
        _run(root, [f"--descriptor_set_out={out}", "--include_imports", *more], protos, shown_as)
        return out.read_bytes()


def python_modules(
    protos: Mapping[str, str],
    *,
    grpc: Collection[str],
    shown_as: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """protoc's output for ``protos``: {path: text} of ``_pb2.py``, ``_pb2.pyi`` and, for the import
    paths in ``grpc``, ``_pb2_grpc.py``. Raises SpecError as ``descriptors`` does."""

    def make() -> bytes:
        return json.dumps(_python_modules(protos, grpc, shown_as)).encode()

    made = cache.made_once("python", _parts(protos, "grpc", *sorted(grpc), "all"), make)
    texts: dict[str, str] = json.loads(made)
    return texts


def _python_modules(
    protos: Mapping[str, str], grpc: Collection[str], shown_as: Mapping[str, str]
) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "in"), Path(folder, "out")
        root.mkdir()
        out.mkdir()
        _lay_out(root, protos)
        _run(root, [f"--python_out={out}", f"--pyi_out={out}"], protos, shown_as)
        if grpc:
            _run(root, [f"--grpc_python_out={out}"], grpc, shown_as)
        return {
            str(path.relative_to(out)): path.read_text()
            for path in sorted(out.rglob("*"))
            if path.is_file()
        }


def _lay_out(root: Path, protos: Mapping[str, str]) -> None:
    for name, text in protos.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _run(root: Path, outputs: list[str], names: Iterable[str], shown_as: Mapping[str, str]) -> None:
    well_known = str(resources.files("grpc_tools") / "_proto")
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", *outputs, *sorted(names)]
    status, said = _with_stderr_caught(arguments)
    if status == 0:
        return
    faults: dict[str, list[Fault]] = {}
    for match in _ERROR.finditer(said):
        name = match["file"].removeprefix(f"{root}/")
        place = Place(shown_as.get(name, name), int(match["line"]), int(match["column"]))
        of_file = faults.setdefault(name, [])
        if not any(_SYNTAX.match(fault.message) for fault in of_file):
            of_file.append(Fault(place, match["message"]))
    causes = [
        fault
        for of_file in faults.values()
        if not any(_imports(fault.message, faults) for fault in of_file)
        for fault in of_file
    ]
    if causes:
        raise SpecError.of(causes)
    raise SpecError(f"protoc failed: {said.strip()}", Place(", ".join(sorted(names))))


def _imports(message: str, faulty: Collection[str]) -> bool:
    """Whether an error is about the import of a file that has errors of its own."""
    found = _IMPORT.match(message)
    return found is not None and found[1] in faulty


def _with_stderr_caught(arguments: list[str]) -> tuple[int, str]:
    """Run protoc; its errors are written to file descriptor 2 by C++ code and are captured
    there."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # slow to load, rarely needed

    with tempfile.TemporaryFile() as said:
        saved = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            status = protoc.main(arguments)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        said.seek(0)
        return status, said.read().decode(errors="replace")
