"""Files of spec/ that nothing reads, such as ``mount.yml``: a person believes that they count."""

from __future__ import annotations

import re
from pathlib import Path

from codegen import load, mapping_file, older, plan_schema, stubs
from codegen.errors import Place, Problems, SpecError
from codegen.project import Settings

_CURRENT = ("current", "origins.json")


def check(root: Path, settings: Settings, problems: Problems) -> None:
    """Record a fault for each stray file.

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
