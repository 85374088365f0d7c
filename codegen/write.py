"""Updates a folder to a required set of files, or reports the differences.

All changes are recorded first, then either written or printed, so ``check`` and ``generate`` always
agree about what "up to date" means.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from codegen.errors import Place, SpecError

_NOT_OURS = ("__pycache__",)


@dataclass(frozen=True, slots=True)
class Change:
    """One file that differs; ``old`` is None if it is missing, ``new`` if it is stale."""

    path: str
    old: str | None
    new: str | None

    @property
    def verb(self) -> str:
        if self.old is None:
            return "add"
        return "delete" if self.new is None else "change"

    def diff(self) -> str:
        """The unified diff, with /dev/null for a side that does not exist."""
        return "".join(
            difflib.unified_diff(
                (self.old or "").splitlines(keepends=True),
                (self.new or "").splitlines(keepends=True),
                f"a/{self.path}" if self.old is not None else "/dev/null",
                f"b/{self.path}" if self.new is not None else "/dev/null",
            )
        )


def changes(folder: Path, wanted: Mapping[str, str]) -> list[Change]:
    """The differences between ``folder`` and ``wanted`` ({path below it: text}), both ways."""
    present = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink())
        and not any(part in _NOT_OURS for part in path.parts)
    }
    found = []
    for name in sorted(present.keys() | wanted.keys()):
        old = _text(present[name]) if name in present else None
        new = wanted.get(name)
        if old != new:
            found.append(Change(name, old, new))
    return found


def put(folder: Path, files: Mapping[str, str], mark: str, holds: str, *, stale: str = "") -> None:
    """Make ``folder`` hold ``files``, and remove what an earlier version left: files that end with
    ``stale``.

    Raises SpecError if it cannot be written, and unless it is new, empty, or has the file ``mark``,
    which only an earlier version of such files has. ``holds`` says what they are.
    """

    def refused(why: str) -> SpecError:
        return SpecError(why, Place(str(folder)), f"give --out a new folder, or one with {holds}")

    try:
        if folder.exists() and not folder.is_dir():
            raise refused("is not a folder")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
            raise refused(f"holds something other than {holds}")
        folder.mkdir(parents=True, exist_ok=True)
        found = changes(folder, files)
        apply(folder, [c for c in found if c.new is not None or c.path.endswith(stale)])
    except OSError as error:
        raise refused(f"cannot be written: {error.strerror}") from error


def apply(folder: Path, recorded: Sequence[Change]) -> None:
    """Write, replace and delete as recorded; each file is replaced atomically.

    Raises SpecError if a file cannot be written. The next run completes what one left unfinished.
    """
    for change in recorded:
        path = folder / change.path
        if change.new is not None:
            replace(path, change.new, f"{folder.name}/{change.path}")
            continue
        try:
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, folder)
        except OSError as error:
            place = Place(f"{folder.name}/{change.path}")
            raise SpecError(f"cannot be deleted: {error.strerror}", place) from error


def replace(path: Path, text: str, shown_as: str) -> None:
    """Replace the content of a file atomically; raises SpecError, naming the file as
    ``shown_as``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a run that was killed
            left.unlink(missing_ok=True)
        _replace(path, text)
    except OSError as error:
        raise SpecError(
            f"cannot be written: {error.strerror}",
            Place(shown_as),
            "nothing of it was changed; run the command again when it can be written",
        ) from error


@contextlib.contextmanager
def alone(root: Path, *, reading: bool) -> Iterator[None]:
    """Wait until no other run writes in ``root``, or, unless ``reading``, reads there."""
    try:
        handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", Place(str(root))) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if reading else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _text(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}\n"
    return path.read_bytes().decode(errors="replace")


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _remove_empty(folder: Path, top: Path) -> None:
    while folder != top and not any(p.name not in _NOT_OURS for p in folder.iterdir()):
        for cache in folder.iterdir():
            for file in cache.iterdir():
                file.unlink()
            cache.rmdir()
        folder.rmdir()
        folder = folder.parent
