"""Which values fit where, and the reason when they do not."""

from __future__ import annotations

import pytest

from codegen import kinds
from codegen.model import Kind, integer

_STR, _INT = Kind("str"), Kind("int")
_INT64, _UINT64 = integer(64, signed=True), integer(64, signed=False)
_UINT32 = integer(32, signed=False)


def _list(kind: Kind) -> Kind:
    return Kind("list", of=(kind,))


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (_STR, _STR, None),
        (_STR, _INT64, "str does not fit int64"),
        (_INT, _UINT32, None),
        (_UINT32, _INT64, None),
        (_INT64, _UINT64, "int64 is wider than uint64"),
        (_UINT64, _INT64, "uint64 is wider than int64"),
        (Kind("int", low=1), _INT64, None),
        (_INT64, Kind("int", low=1), "int64 is wider than 1..None"),
        (Kind("enum", "Color"), _INT, None),
        (Kind("bool"), _INT, None),
        (_INT, Kind("bool"), "int does not fit bool"),
        (_list(_STR), _list(_STR), None),
        (_list(_INT64), _list(_STR), "int64 does not fit str"),
        (_STR, _list(_STR), "str does not fit list of str"),
        (Kind("map", of=(_STR, _INT)), Kind("map", of=(_STR, _STR)), "int does not fit str"),
        (Kind("object", "User"), Kind("object", "User"), None),
        (Kind("object", "User"), Kind("object", "Root"), "User does not fit Root"),
        (Kind("str", optional=True), _STR, "it may be None, and str has no place for None"),
        (_STR, Kind("str", optional=True), None),
        (Kind("any"), _STR, None),
        (_STR, Kind("any"), None),
    ],
)
def test_why_not(source: Kind, target: Kind, reason: str | None) -> None:
    assert kinds.why_not(source, target) == reason


def test_only_a_range_is_narrowing() -> None:
    assert kinds.is_narrowing(_INT64, _UINT64)
    assert not kinds.is_narrowing(_UINT32, _UINT64)
    assert not kinds.is_narrowing(_STR, _UINT64)
