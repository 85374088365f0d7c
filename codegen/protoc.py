"""Runs protoc, the one that grpcio-tools carries, inside this process."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

from codegen.errors import Place, SpecError, SpecErrors

_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?P<column>\d+): (?P<message>.+)$", re.M)


def descriptors(protos: Mapping[str, str], shown_as: Mapping[str, str] = {}) -> FileDescriptorSet:
    """The descriptor set of ``protos`` ({import path: text}) and all that they import.

    ``shown_as`` gives, for an import path, the path that errors name. Raises SpecErrors with the
    places that protoc reports.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _lay_out(root, protos)
        out = root / "set.binpb"
        _run(root, [f"--descriptor_set_out={out}", "--include_imports"], protos, shown_as)
        return FileDescriptorSet.FromString(out.read_bytes())


def python_modules(protos: Mapping[str, str], *, grpc: Collection[str]) -> dict[str, str]:
    """What protoc writes for ``protos``: {path: text} of ``_pb2.py``, ``_pb2.pyi`` and, for the
    import paths in ``grpc``, ``_pb2_grpc.py``."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "in"), Path(folder, "out")
        root.mkdir()
        out.mkdir()
        _lay_out(root, protos)
        _run(root, [f"--python_out={out}", f"--pyi_out={out}"], protos, {})
        if grpc:
            _run(root, [f"--grpc_python_out={out}"], grpc, {})
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
    errors = []
    for match in _ERROR.finditer(said):
        name = match["file"].removeprefix(f"{root}/")
        place = Place(shown_as.get(name, name), int(match["line"]), int(match["column"]))
        errors.append(SpecError(match["message"], place))
    raise SpecErrors(errors or [SpecError(f"protoc failed: {said.strip()}", Place("protoc"))])


def _with_stderr_caught(arguments: list[str]) -> tuple[int, str]:
    """Run protoc; its complaints go to file descriptor 2, from C++, so they are caught there."""
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
