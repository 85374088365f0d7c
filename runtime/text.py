"""Sanitizes external text: what registries, images, plugins, shims and runc return.

Such text may be invalid Unicode (an HTTP reason in Latin-1, a lone surrogate in JSON), may contain
control characters that break a log line or manipulate a terminal, and may exceed what a gRPC status
can carry. It is sanitized here before it reaches gRPC, JSON or a log; errors (``runtime.errors``),
call statuses (``runtime.frame``) and the log do this by themselves.
"""

from __future__ import annotations

import sys
from typing import Final

REPLACEMENT: Final = "\ufffd"
"""Replaces invalid characters, as in Go's and Python's own decoders."""

STATUS_LIMIT: Final = 6 << 10
"""Maximum bytes of a call's encoded status text: gRPC clients refuse headers beyond 8 KiB."""

_CUT: Final = " […]"

_BREAKS: Final = dict.fromkeys(map(ord, "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"), " ")

_CONTROLS: Final = frozenset({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A})
_SURROGATES: Final = range(0xD800, 0xE000)
_BIDI: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Control characters that change the direction of displayed text."""

_UNFIT: Final = dict.fromkeys((*_CONTROLS, *_SURROGATES, *_BIDI), REPLACEMENT)
_NO_SURROGATES: Final = dict.fromkeys(_SURROGATES, REPLACEMENT)
_ONE_LINE: Final = {**_UNFIT, **_BREAKS}


def valid(text: str) -> str:
    """The text without lone surrogates and control characters; line breaks and tabs are kept."""
    return text if _is_plain(text) else text.translate(_UNFIT)


def without_surrogates(text: str) -> str:
    """The text as valid Unicode; control characters are kept, because programs may need them."""
    return text if text.isascii() else text.translate(_NO_SURROGATES)


def one_line(text: str, limit: int = sys.maxsize) -> str:
    """Valid text in one line of at most ``limit`` characters; a truncated end is marked."""
    if not _is_plain(text):
        text = text.translate(_ONE_LINE)
    return text if len(text) <= limit else text[: limit - len(_CUT)] + _CUT


def status(text: str) -> str:
    """One line that every gRPC client accepts as a call's status text."""
    text = one_line(text, STATUS_LIMIT)
    if _sent_size(text) <= STATUS_LIMIT:
        return text
    room = STATUS_LIMIT - _sent_size(_CUT)
    end = 0
    while end < len(text) and (room := room - _sent_size(text[end])) >= 0:
        end += 1
    return text[:end] + _CUT


def _is_plain(text: str) -> bool:
    """Whether nothing needs to be replaced, by the cheapest test that most text passes."""
    return text.isascii() and text.isprintable()


def _sent_size(text: str) -> int:
    """Bytes of the text in ``grpc-message``: everything but printable ASCII is encoded as %XX per
    byte."""
    data = text.encode()
    plain = sum(1 for byte in data if 0x20 <= byte <= 0x7E and byte != 0x25)
    return plain + 3 * (len(data) - plain)
