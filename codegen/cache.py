"""A cache for slow results that depend only on their input, such as protoc's output.

The name of an entry is the digest of all its inputs, including the tool's version, so an entry can
be missing but never outdated; a damaged entry counts as missing. The folder belongs to the user
($XDG_CACHE_HOME or ~/.cache) and is shared by all checkouts; if it cannot be written, everything is
recomputed.
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
    """Store an entry; entries not used for a month are deleted."""
    folder = _folder()
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_old(folder)
        handle, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(key, content) + content)
        os.replace(name, folder / key)


def _seal(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "cri-codegen")


@functools.cache
def _drop_old(folder: Path) -> None:
    before = time.time() - _KEPT_SECONDS
    for path in folder.iterdir():
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
