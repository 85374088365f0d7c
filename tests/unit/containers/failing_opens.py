"""Pipes that cannot be opened: what a command or ExecSync must survive without leaking."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import pytest

from runtime.errors import ResourceExhausted, Unknown

every_failure = pytest.mark.parametrize(
    ("succeed", "number", "kind"),
    [
        (succeed, number, kind)
        for succeed in range(4)
        for number, kind in ((errno.EMFILE, ResourceExhausted), (errno.EIO, Unknown))
    ],
)
"""How many opens succeed, the error of the next ones, and the error that the client gets."""


def descriptors() -> set[str]:
    """The open descriptors of this process and what they lead to. Those that earlier tests left to
    the garbage collector may be closed at any time."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return found


@contextmanager
def failing_opens(succeed: int, number: int) -> Iterator[None]:
    """After ``succeed`` successful calls, ``os.open`` fails with the error ``number``."""
    left, really_open = succeed, os.open

    def open_some(*args: Any, **kwargs: Any) -> int:
        nonlocal left
        if not left:
            raise OSError(number, os.strerror(number))
        left -= 1
        return really_open(*args, **kwargs)

    with mock.patch.object(os, "open", open_some):
        yield
