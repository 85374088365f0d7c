"""Files of spec/ that nothing reads, such as ``mount.yml``, and folders that are not searched: a
person believes that they count."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from codegen import load, mapping_file, older, plan_schema, stubs
from codegen.errors import Place, Problems, SpecError
from codegen.project import Settings

_CURRENT = ("current", "origins.json")


def check(root: Path, settings: Settings, problems: Problems) -> None:
    """Record a fault for each stray file, and for each link to a folder below spec/, the
    hand-written code or its tests. Such a link may lead to a folder above it, or out of the
    project, so what is searched by folders does not follow it.

    Hidden files, which editors leave behind, and Markdown are ignored.
    """
    read = {
        mapping_file.FOLDER: (r"\w+\.yaml", "MESSAGE.yaml"),
        plan_schema.FOLDER: (r"\w+\.schema\.json", "NAME.schema.json"),
    }
    if settings.clients is not None:
        read[settings.clients.protos] = (r"\w+\.proto", "NAME.proto")
    for folder, (pattern, form) in read.items():
        for path in _visible(root / folder):
            if not re.fullmatch(pattern, path.name) or path.is_dir() or path.is_symlink():
                _report(path, folder, f"call it {form}, or remove it", problems)
    named = _older(root)
    for path in _visible(root / settings.api.protos):
        version = path.suffix == ".proto" and stubs.is_version(path.stem)
        known = (
            version
            or path.name in _CURRENT
            or named is None
            or f"{settings.api.protos}/{path.name}" in named
        )
        if path.name in _CURRENT and path.is_dir():
            continue  # reported by who cannot read it
        if not known or path.is_dir() or path.is_symlink():
            hint = "pin it with cri-codegen import, name it in older.yaml, or remove it"
            _report(path, settings.api.protos, hint, problems)
    for path in _visible(root / "spec"):
        if path.suffix == ".yml":
            _report(path, "spec", f"call it {path.stem}.yaml, or remove it", problems)
    told = {fault.place.file for fault in problems}
    for folder in ("spec", settings.code, "tests"):
        names = _linked_folders(root / folder)
        for name in (name for name in names if f"{folder}/{name}" not in told):
            problems.add(
                "is a link to a folder, which is not followed",
                Place(f"{folder}/{name}"),
                "move the folder itself here",
                "linked-folder",
            )


def _linked_folders(top: Path) -> Iterator[str]:
    for parent, folders, _ in os.walk(os.path.realpath(top)):
        for name in sorted(folders):
            path = Path(parent, name)
            if path.is_symlink():
                yield path.relative_to(os.path.realpath(top)).as_posix()


def _older(root: Path) -> str | None:
    """The text of older.yaml, which names protos; None if it cannot be read, which is reported with
    the rest of it."""
    try:
        return load.text_file(root, older.FILE) if (root / older.FILE).exists() else ""
    except SpecError:
        return None


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.name[0] != "." and p.suffix != ".md"]


def _report(path: Path, folder: str, hint: str, problems: Problems) -> None:
    if path.suffix in (".yaml", ".proto") and path.is_symlink() and not path.exists():
        return  # reported by who cannot read it
    if path.is_symlink():
        message, hint = "is a link, which a review does not show", "copy the file"
    elif path.is_dir():
        message, hint = f"is a folder in {folder}, where nothing reads it", "move its files up"
    else:
        message = "has a name that nothing reads"
    problems.add(message, Place(f"{folder}/{path.name}"), hint, "stray-file")
