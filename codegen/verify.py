"""Whether the modules of the server can be imported, and whether this was checked before.

A module that compiles may still fail when imported: a name missing in a stub, a transform that was
moved. So every module of the generated and of the hand-written package is imported, in a separate
process, because the generator itself imports neither.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from codegen import cache, project
from codegen.errors import Fault, Place

_CODE = Path(__file__).resolve().parent
_TOOLS = ("grpcio", "grpcio-tools", "jinja2", "msgspec", "protobuf", "ruff")
_IMPORT_ALL = """
import gc, importlib, json, os, sys, traceback
gc.disable()
root, *modules = json.load(sys.stdin)
sys.path.insert(0, root)
told = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what modules print is no answer
for name, file in modules:
    print(json.dumps([file]), file=told)
    try:
        importlib.import_module(name)
    except SyntaxError as error:
        said = [error.filename, error.lineno, f"SyntaxError: {error.msg}"]
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in frames if frame.filename.startswith(root)]
        where = (frames[-1].filename, frames[-1].lineno) if frames else (file, 0)
        said = [*where, f"{type(error).__name__}: {error}".removesuffix(": ")]
    else:
        continue
    print(json.dumps(said), file=told)
print("[]", file=told)
"""
"""Writes a line with each module's file before it is imported, a line with each failure, and at the
end an empty list: a module may end the process."""


def known_good(root: Path) -> bool:
    """Whether exactly these inputs and this generated/ were checked successfully before.

    Every byte of both is read for this, so the result cannot be outdated.
    """
    try:
        return cache.get(_key(root)) is not None
    except OSError:  # a file that cannot be read, which the check itself reports
        return False


def remember(root: Path) -> None:
    """Record that the current content of ``root`` was checked successfully."""
    cache.put(_key(root), b"")


def _key(root: Path) -> str:
    settings = project.read(root)
    parts = ["verified", sys.version, *(f"{tool} {version(tool)}" for tool in _TOOLS)]
    files = [
        *_files(root, "spec", ""),
        *_files(_CODE.parent, "codegen", ""),
        *_files(root, settings.code, ".py"),
        *_files(root, "tests", ".py"),
        *_files(root, settings.output, ""),
    ]
    whole = [word.encode() for word in parts]
    for part in ("spec", settings.output):
        for _, folders, _ in os.walk(root / part):  # also empty ones, and links
            whole += [name.encode() for name in sorted(folders) if name != "__pycache__"]
    for name, path in files:
        whole += [name.encode(), path.read_bytes()]
    return cache.digest(*whole)


def _files(root: Path, folder: str, suffix: str) -> Iterator[tuple[str, Path]]:
    top = Path(os.path.realpath(root / folder))
    for parent, folders, names in os.walk(top):  # a link below may lead to a folder above
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            if name.endswith(suffix):
                path = Path(parent, name)
                yield f"{folder}/{path.relative_to(top)}", path


def import_faults(root: Path) -> list[Fault]:
    """Why modules of the two packages cannot be imported, each cause once."""
    folder, settings = root.resolve(), project.read(root)
    modules = [
        (".".join(Path(name).with_suffix("").parts).removesuffix(".__init__"), name)
        for part in (settings.output, settings.code)
        for name, _ in _files(folder, part, ".py")
    ]
    made = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL],
        input=json.dumps([str(folder), *modules]),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    *told, last = map(json.loads, made.stdout.splitlines() or ["[]"])
    found = {
        Fault(
            Place(file.removeprefix(f"{folder}/"), line or 0, 1 if line else 0),
            f"cannot be imported: {said.replace(f'{folder}/', '')}",
        )
        for file, line, said in (line for line in told if len(line) == 3)
    }
    if last:
        found.add(Fault(Place(last[0]), "ends the process when it is imported"))
    return sorted(found)
