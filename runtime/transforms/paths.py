"""Limits of the kernel for paths."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 4095
"""Maximum bytes of a path: PATH_MAX without the terminating NUL."""

LONGEST_NAME: Final = 255
"""Maximum bytes of one component of a path: NAME_MAX."""


def why_too_long(path: str, *, longest: int = LONGEST) -> str | None:
    """Which limit the path exceeds, as a rule for the user; None if it exceeds none."""
    if len(path.encode()) > longest:
        return f"must be a path of at most {longest} bytes, not {len(path.encode())}"
    name = max(path.split("/"), key=lambda part: len(part.encode()))
    if len(name.encode()) > LONGEST_NAME:
        return (
            f"must have names of at most {LONGEST_NAME} bytes between its slashes, "
            f"not {len(name.encode())}"
        )
    return None
