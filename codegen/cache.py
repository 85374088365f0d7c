"""A cache for slow results that depend only on their input, such as protoc's output.

The name of an entry is the digest of all its inputs, including the tool's version, so an entry can
be missing but never outdated; a damaged entry counts as missing. The folder belongs to the user
($XDG_CACHE_HOME or ~/.cache) and is shared by all checkouts and by runs at the same time; if it
cannot be written, everything is recomputed. The first entry that a run stores makes it delete the
entries used longest ago, so the folder stays below a fixed number of entries.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_KEPT_SECONDS = 30 * 24 * 3600
_MOST = 4000
"""Entries kept: those of about twenty states of the specification, 40 MB."""
_PARTIAL = "partial-"
"""Begins the name of an entry that is being written."""
_PARTIAL_SECONDS = 3600
"""Age after which the run that wrote a partial entry was killed: writing takes milliseconds."""
_DIGEST = 32


def made_once(kind: str, parts: tuple[bytes, ...], make: Callable[[], bytes]) -> bytes:
    """The result of ``make`` for ``parts``, from the cache if possible."""
    key = digest(kind.encode(), *parts)
    found = get(key)
    if found is None:
        found = make()
        put(key, found)
    return found


def digest(*parts: bytes) -> str:
    """One digest of several byte strings, including their boundaries."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()


def get(key: str) -> bytes | None:
    """The entry with this name; None if it is missing or damaged."""
    path = _folder() / key
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    content = data[_DIGEST:]
    return content if data[:_DIGEST] == _seal(key, content) else None


def put(key: str, content: bytes) -> None:
    """Store an entry, if the folder can be written."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_old(folder)
        handle, name = tempfile.mkstemp(dir=folder, prefix=_PARTIAL)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_seal(key, content) + content)
            os.replace(name, folder / key)
        except BaseException:
            os.unlink(name)
            raise


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "cri-codegen")


@functools.cache
def _drop_old(folder: Path) -> None:
    """Delete all but the `_MOST` entries used last, those not used for a month, and what killed
    runs left.

    Another run may do the same at the same time.
    """
    now, kept = time.time(), []
    with os.scandir(folder) as found:
        for entry in found:
            with contextlib.suppress(FileNotFoundError):
                age = now - entry.stat().st_mtime
                partial = not _is_key(entry.name)
                if age > (_PARTIAL_SECONDS if partial else _KEPT_SECONDS):
                    os.unlink(entry.path)
                elif not partial:
                    kept.append((age, entry.path))
    for _, path in sorted(kept)[_MOST:]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _is_key(name: str) -> bool:
    return len(name) == 2 * _DIGEST and not name.startswith(_PARTIAL)
