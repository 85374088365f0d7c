"""What is slow to make and depends on nothing but its input, as protoc's output does.

An entry's name is the digest of everything that it was made from, the tool's version included, so
it can be absent but never out of date; a damaged entry is as good as absent. The folder belongs to
the user ($XDG_CACHE_HOME or ~/.cache) and serves every checkout; without one that can be written,
everything is made again.
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
    """What ``make`` returns for ``parts``, from an earlier time if there was one."""
    key = digest(kind.encode(), *parts)
    found = get(key)
    if found is None:
        found = make()
        put(key, found)
    return found


def digest(*parts: bytes) -> str:
    """One digest of several byte strings, their boundaries included."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()


def get(key: str) -> bytes | None:
    """The entry of this name; None when there is none or its digest does not hold."""
    path = _folder() / key
    try:
        data = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    content = data[_DIGEST:]
    return content if data[:_DIGEST] == _seal(key, content) else None


def put(key: str, content: bytes) -> None:
    """Keep an entry; what was not used for a month is dropped."""
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
