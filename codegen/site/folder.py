"""The folder of a site on disk: replaced as a whole, and never one that holds anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from codegen import write

_MARK = "evidence.js"
"""A file that every site has, and hardly anything else."""


def put(folder: Path, files: Mapping[str, str]) -> None:
    """Make ``folder`` hold this site; pages of an earlier one are removed.

    Raises SpecError if it holds something other than a site, or cannot be written.
    """
    write.put(folder, files, _MARK, "a review site", stale=".html")
