"""What the cgroup allows of requested devices. Errors of one device name their field within it."""

from __future__ import annotations

from runtime.errors import InvalidArgument


def access(*, permissions: str) -> str:
    """Which of read, write and mknod the cgroup allows.

    Raises InvalidArgument for anything else.
    """
    if not set(permissions) <= set("rwm"):
        raise InvalidArgument(
            f"must consist of r, w and m, not {permissions!r}", field="permissions"
        )
    return permissions


def is_allowed() -> bool:
    """A requested device is an exception to the rule that denies everything."""
    return True
