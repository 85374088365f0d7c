"""External text is sanitized so that gRPC, JSON and a log can carry it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import text
from runtime.errors import InvalidArgument
from runtime.server import log

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Lone surrogates included."""


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("plain", "plain"),
        ("é 一 😀", "é 一 😀"),
        ("trouv\udce9", "trouv\ufffd"),
        ("two\nlines\r\n", "two lines  "),
        ("\x1b[31mred\x00", "\ufffd[31mred\ufffd"),
        ("a\u202eb\u2028c", "a\ufffdb c"),
    ],
)
def test_one_line(said: str, shown: str) -> None:
    assert text.one_line(said) == shown


def test_line_breaks_and_tabs_may_stay() -> None:
    assert text.valid("a\n\tb\x07") == "a\n\tb\ufffd"


def test_a_truncated_text_is_marked() -> None:
    assert text.one_line("a" * 100, 20) == "a" * 16 + " […]"


@given(ANY_TEXT)
def test_everything_can_be_encoded_and_bounded(said: str) -> None:
    for made in (text.valid(said), text.one_line(said), text.status(said * 50)):
        assert json.loads(json.dumps(made.encode().decode())) == made
    sent = text.status(said * 50).encode()
    plain = sum(1 for byte in sent if 0x20 <= byte <= 0x7E and byte != 0x25)
    assert plain + 3 * (len(sent) - plain) <= text.STATUS_LIMIT


def test_errors_hold_valid_text() -> None:
    assert str(InvalidArgument("bad\ud800\n", field="image.image")) == "image.image: bad\ufffd "


def test_the_log_holds_valid_text() -> None:
    made = log.valid_text(None, "info", {"event": "x", "why": "\x1b[2J\udce9", "n": 1})
    assert made == {"event": "x", "why": "\ufffd[2J\ufffd", "n": 1}
