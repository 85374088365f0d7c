"""External JSON: typed, with located errors, and valid text."""

from __future__ import annotations

import msgspec
import pytest

from runtime.documents import DocumentError, decode


class Inner(msgspec.Struct):
    numbers: list[int] | None = None


class Outer(msgspec.Struct):
    name: str
    inner: Inner | None = None


def test_unknown_fields_are_ignored() -> None:
    assert decode(b'{"name": "a", "more": [1]}', Outer) == Outer("a")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"name": 5}', "name: expected `str`, got `int`"),
        (b'{"name": "a", "inner": {"numbers": [1, "b"]}}', "inner.numbers[1]: expected `int`"),
        (b'{"name": "\\ud800", "inner": {"numbers": ["b"]}}', "inner.numbers[0]: expected `int`"),
        (b'{"name": "a", "inner": {"numbers": [1e999]}}', "inner.numbers[0]: number out of range"),
        (b"{}", "it: object missing required field `name`"),
        (b"5", "it: expected `object`, got `int`"),
        (b'{"name": "a"', "it is not JSON: "),
        (b"\xff", "it is not JSON: "),
        (b"", "it is not JSON: "),
        (b"[" * 100_000, "it"),
        (b'{"more": ' + b"[" * 100_000, "it is nested too deeply"),
        (b'{"name": "\\ud800", "more": ' + b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_refusal_names_the_field(data: bytes, reason: str) -> None:
    with pytest.raises(DocumentError) as refused:
        decode(data, Outer)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"\\ud800"', "\ufffd"),
        (b'"\\ud800x\\udc00"', "\ufffdx\ufffd"),
        (b'"\xe9"', "\ufffd"),
        (b'"\\u0000"', "\0"),
    ],
)
def test_invalid_unicode_is_replaced(said: bytes, read: str) -> None:
    assert decode(b'{"name": ' + said + b"}", Outer).name == read
    assert decode(b"{" + said + b": 1}", object) == {read: 1}
