"""Message and gRPC stubs: protoc's output for the pinned protos, importable from ``generated``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from codegen import protoc
from codegen.errors import Place, SpecError

_IMPORT = re.compile(r"^from (cri|containerd) import (\w+_pb2)", re.M)


def current_version(root: Path) -> str:
    """The CRI version that ``generated/`` is built from, as ``spec/cri/current`` names it."""
    path = root / "spec/cri/current"
    try:
        version = path.read_text().strip()
    except OSError as error:
        raise SpecError(
            "names the CRI version to build and is missing",
            Place("spec/cri/current"),
            "write one line into it, such as 1.36",
        ) from error
    if not (root / f"spec/cri/{version}.proto").is_file():
        raise SpecError(
            f"names version {version}, but spec/cri/{version}.proto does not exist",
            Place("spec/cri/current", 1, 1),
            f"run: cri-codegen import FILE --as {version}",
        )
    return version


def containerd_protos(root: Path) -> dict[str, str]:
    """{import path: text} of the pinned containerd services."""
    return {
        f"containerd/{path.name}": path.read_text()
        for path in sorted((root / "spec/containerd").glob("*.proto"))
    }


def render(cri: str, containerd: Mapping[str, str]) -> dict[str, str]:
    """{path under generated/: text} for one CRI proto and the containerd protos."""
    protos = {"cri/api.proto": cri, **containerd}
    served = [name for name, text in protos.items() if re.search(r"^service ", text, re.M)]
    return {
        name: _IMPORT.sub(r"from generated.\1 import \2", text)
        for name, text in protoc.python_modules(protos, grpc=served).items()
    }
