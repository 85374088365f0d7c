"""Message and gRPC stubs: protoc's output for the pinned protos, importable from ``generated``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from codegen import load, project, protoc
from codegen.errors import Place, Problems, SpecError
from codegen.project import Settings

_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")


def current_version(root: Path) -> str:
    """The version of the API that is generated, as the file ``current`` names it."""
    served = project.read(root).api
    current = f"{served.protos}/current"
    if not (root / current).exists():
        raise SpecError(
            f"names the {served.name} version to build and is missing",
            Place(current),
            "write one line into it, such as 1.36",
        )
    version = load.text_file(root, current).strip()
    known = versions(root)
    if not is_version(version):
        raise SpecError(
            f"{f'holds {version!r}, which' if version else 'is empty and'} names no"
            f" {served.name} version",
            Place(current, 1, 1),
            f"write one line into it: {', '.join(known)}",
        )
    if version not in known:
        raise SpecError(
            f"names version {version!r}, but {served.proto(version)} does not exist",
            Place(current, 1, 1),
            f"pinned: {', '.join(known)}; to pin it: cri-codegen import FILE --as VERSION",
        )
    return version


def versions(root: Path) -> list[str]:
    """Every pinned version of the API, oldest first."""
    folder = root / project.read(root).api.protos
    return sorted(filter(is_version, (path.stem for path in folder.glob("*.proto"))), key=order)


def is_version(word: str) -> bool:
    """Whether ``word`` is a version of an API, such as 1.36."""
    return _VERSION.fullmatch(word) is not None


def order(version: str) -> tuple[int, ...]:
    """A sort key that orders versions by age."""
    return tuple(int(part) for part in version.split("."))


def client_protos(root: Path) -> dict[str, str]:
    """{import path: text} of the protos of other APIs that hand-written code is a client of."""
    clients = project.read(root).clients
    if clients is None:
        return {}
    return {
        f"{clients.folder}/{path.name}": load.text_file(root, f"{clients.protos}/{path.name}")
        for path in sorted((root / clients.protos).glob("*.proto"))
    }


def check_clients(root: Path, problems: Problems) -> None:
    """Record what is wrong with the pinned protos of other APIs."""
    protos = problems.attempt(lambda: client_protos(root))
    if protos:
        shown_as = {name: f"spec/{name}" for name in protos}
        problems.attempt(lambda: protoc.check(protos, shown_as))


def render(settings: Settings, api: str, others: Mapping[str, str]) -> dict[str, str]:
    """{path in the output: text} for one proto of the API and the protos of others."""
    protos = {f"{settings.api.folder}/api.proto": api, **others}
    served = [name for name, text in protos.items() if re.search(r"^service ", text, re.M)]
    folders = "|".join(sorted({name.partition("/")[0] for name in protos}))
    moved = re.compile(rf"^from ({folders}) import (\w+_pb2)", re.M)
    return {
        name: moved.sub(rf"from {settings.output}.\1 import \2", text)
        for name, text in protoc.python_modules(
            protos, grpc=served, shown_as={name: f"spec/{name}" for name in others}
        ).items()
    }
