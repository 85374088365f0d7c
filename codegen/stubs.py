"""Message and gRPC stubs: protoc's output for the pinned protos, importable from ``generated``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from codegen import load, protoc
from codegen.errors import Place, SpecError

_CURRENT = "spec/cri/current"
_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_IMPORT = re.compile(r"^from (cri|containerd) import (\w+_pb2)", re.M)


def current_version(root: Path) -> str:
    """The CRI version that ``generated/`` is built from, as ``spec/cri/current`` names it."""
    if not (root / _CURRENT).is_file():
        raise SpecError(
            "names the CRI version to build and is missing",
            Place(_CURRENT),
            "write one line into it, such as 1.36",
        )
    version = load.text_file(root, _CURRENT).strip()
    known = cri_versions(root)
    if not is_version(version):
        raise SpecError(
            f"{f'holds {version!r}, which' if version else 'is empty and'} names no CRI version",
            Place(_CURRENT, 1, 1),
            f"write one line into it: {', '.join(known)}",
        )
    if version not in known:
        raise SpecError(
            f"names version {version!r}, but spec/cri/{version}.proto does not exist",
            Place(_CURRENT, 1, 1),
            f"pinned: {', '.join(known)}; to pin it: cri-codegen import FILE --as VERSION",
        )
    return version


def cri_versions(root: Path) -> list[str]:
    """Every pinned version of ``runtime.v1``, oldest first."""
    found = (path.stem for path in (root / "spec/cri").glob("*.proto"))
    return sorted(filter(is_version, found), key=order)


def is_version(word: str) -> bool:
    """Whether ``word`` is a version of ``runtime.v1``: a Kubernetes minor, such as 1.36."""
    return _VERSION.fullmatch(word) is not None


def order(version: str) -> tuple[int, ...]:
    """A sort key that orders versions by age."""
    return tuple(int(part) for part in version.split("."))


def containerd_protos(root: Path) -> dict[str, str]:
    """{import path: text} of the pinned containerd services."""
    return {
        f"containerd/{path.name}": load.text_file(root, f"spec/containerd/{path.name}")
        for path in sorted((root / "spec/containerd").glob("*.proto"))
    }


def render(cri: str, containerd: Mapping[str, str]) -> dict[str, str]:
    """{path under generated/: text} for one CRI proto and the containerd protos."""
    protos = {"cri/api.proto": cri, **containerd}
    served = [name for name, text in protos.items() if re.search(r"^service ", text, re.M)]
    return {
        name: _IMPORT.sub(r"from generated.\1 import \2", text)
        for name, text in protoc.python_modules(
            protos, grpc=served, shown_as={name: f"spec/{name}" for name in containerd}
        ).items()
    }
