"""The folder of a site on disk: replaced as a whole, and never one that holds anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from codegen import write
from codegen.errors import Place, SpecError
from codegen.write import Change

_MARK = "evidence.js"
"""A file that every site has, and hardly anything else."""


def put(folder: Path, files: Mapping[str, str]) -> None:
    """Make ``folder`` hold this site; pages of an earlier one are removed.

    Raises SpecError if it holds something other than a site, or cannot be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise _refused(folder, "is not a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_file():
            raise _refused(folder, "holds something other than a review site")
        folder.mkdir(parents=True, exist_ok=True)
        write.apply(folder, [change for change in write.changes(folder, files) if _ours(change)])
    except OSError as error:
        raise _refused(folder, f"cannot be written: {error.strerror}") from error


def _ours(change: Change) -> bool:
    """Whether a file is written, or is a page of an earlier site."""
    return change.new is not None or change.path.endswith(".html")


def _refused(folder: Path, why: str) -> SpecError:
    return SpecError(why, Place(str(folder)), "give --out a new folder, or one with such a site")
