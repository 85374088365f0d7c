"""Signals in three notations: the CRI's enum, image configs, and the kernel's numbers."""

from __future__ import annotations

import functools
import re
import signal
from typing import cast

from generated.cri import api_pb2
from runtime.errors import InvalidArgument

_REAL_TIME = re.compile(r"SIG(RTMIN|RTMAX)(?:([+-])([0-9]+))?")


def number(name: str) -> int:
    """The number of the signal in an image or a record: SIGTERM, TERM, 15 or SIGRTMIN+3.

    Raises InvalidArgument for a name that is not a signal of this platform.
    """
    if name.isascii() and name.isdecimal():
        known = 1 <= int(name) <= signal.SIGRTMAX
        if known:
            return int(name)
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    real_time = _REAL_TIME.fullmatch(full)
    if real_time:
        base, sign, distance = real_time.groups()
        found = signal.SIGRTMIN if base == "RTMIN" else signal.SIGRTMAX
        value = found + int(f"{sign}{distance}") if distance else int(found)
        if signal.SIGRTMIN <= value <= signal.SIGRTMAX:
            return value
    elif full in signal.Signals.__members__:
        return int(signal.Signals[full])
    raise InvalidArgument(
        f"{name!r} is not a signal: use a name such as SIGTERM or SIGRTMIN+3, or a number from 1 to"
        f" {int(signal.SIGRTMAX)}"
    )


def stop_signal_number(*, requested: api_pb2.Signal, from_image: str) -> int:
    """The number of the stop signal: the request's, else the image's, else SIGTERM.

    An invalid signal of the image counts as none: every container must be stoppable.
    """
    if requested != api_pb2.RUNTIME_DEFAULT:
        return _numbers()[requested]
    try:
        return number(from_image) if from_image else int(signal.SIGTERM)
    except InvalidArgument:
        return int(signal.SIGTERM)


def stop_signal(*, requested: api_pb2.Signal, from_image: str) -> api_pb2.Signal:
    """The same signal as a CRI enum value; RUNTIME_DEFAULT if the enum lacks it."""
    if requested != api_pb2.RUNTIME_DEFAULT:
        return requested
    found = stop_signal_number(requested=requested, from_image=from_image)
    return _cri().get(found, api_pb2.RUNTIME_DEFAULT)


def _kernel_name(cri_name: str) -> str:
    """Enum names cannot contain + and -, so the CRI spells them out."""
    return cri_name.replace("PLUS", "+").replace("MINUS", "-")


@functools.cache  # and not at import: before 1.33, the CRI has no signals
def _numbers() -> dict[int, int]:
    """The number of each signal of the CRI's enum."""
    return {
        value: number(_kernel_name(name))
        for name, value in api_pb2.Signal.items()
        if value != api_pb2.RUNTIME_DEFAULT
    }


@functools.cache
def _cri() -> dict[int, api_pb2.Signal]:
    """The value of the CRI's enum for each number."""
    # reversed, because old names for the same number (SIGCLD, SIGIOT, SIGPOLL) come second in it
    return {found: cast(api_pb2.Signal, value) for value, found in reversed(_numbers().items())}
