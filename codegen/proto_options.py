"""Removes from a published proto what other files define and the wire format does not need:
extension options such as gogoproto's, the imports of their files, and comments.

Works on tokens, not on lines, because an option's value may contain every sign: ``;`` in an
aggregate, ``//`` and brackets in a string. What is removed becomes blanks, so that places in
protoc's errors stay right.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[\w.]+|[^\s]""", re.S
)
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_FOREIGN = re.compile(r"""["'](?:.*gogo\.proto|google/protobuf/descriptor\.proto)["']""")


_Removing = Generator[tuple[int, int], None, int]
"""Gives what is removed, and returns the next position."""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


def without_foreign(text: str, *, comments: bool = False) -> str:
    """``text`` without these parts, and with all its lines; ``comments`` keeps the comments."""
    found = [_Token(m[0], m.start(), m.end()) for m in _TOKEN.finditer(text.lstrip("\ufeff"))]
    shift = len(text) - len(text.lstrip("\ufeff"))
    removed = [] if comments else [t for t in found if t.text.startswith(("//", "/*"))]
    tokens = [t for t in found if not t.text.startswith(("//", "/*"))]
    chars = [*" " * shift, *text[shift:]]
    for start, end in (*((t.start, t.end) for t in removed), *_removed(tokens)):
        for at in range(start + shift, end + shift):
            if chars[at] != "\n":
                chars[at] = " "
    return "".join(chars)


def _removed(tokens: Sequence[_Token]) -> Iterator[tuple[int, int]]:
    """The beginning and end of each part that is removed."""
    at = 0
    while at < len(tokens):
        word, following = tokens[at].text, [t.text for t in tokens[at + 1 : at + 3]]
        begins = at == 0 or tokens[at - 1].text in (";", "{", "}")
        option = word == "option" and following[:1] == ["("]
        foreign = word == "import" and any(_FOREIGN.fullmatch(t) for t in following)
        if begins and (option or foreign):
            at = yield from _until(tokens, at, ";")
        elif begins and word == "extend":
            at = yield from _until(tokens, at, "{")
        elif word == "[":
            at = yield from _field_options(tokens, at)
        else:
            at += 1


def _until(tokens: Sequence[_Token], at: int, last: str) -> _Removing:
    """Remove up to ``last``, or the bracket that closes it; gives the next position."""
    start = at
    while at < len(tokens):
        ends = tokens[at].text == last
        at = _after(tokens, at)
        if ends:
            break
    yield tokens[start].start, tokens[at - 1].end
    return at


def _field_options(tokens: Sequence[_Token], at: int) -> _Removing:
    """Remove the extension options in brackets, and the brackets if nothing is left."""
    end = _after(tokens, at)
    parts: list[list[int]] = [[]]
    inner = at + 1
    while inner < end - 1:
        if tokens[inner].text == ",":
            parts.append([])
            inner += 1
            continue
        following = _after(tokens, inner)
        parts[-1] += range(inner, following)
        inner = following
    kept = [part for part in parts if part and tokens[part[0]].text != "("]
    if not kept:
        yield tokens[at].start, tokens[end - 1].end
    else:
        first, last = kept[0][0], kept[-1][-1]
        yield tokens[at].end, tokens[first].start
        yield tokens[last].end, tokens[end - 1].start
        for before, after in pairwise(kept):
            comma = before[-1] + 1
            yield tokens[comma].end, tokens[after[0]].start
    return end


def _after(tokens: Sequence[_Token], at: int) -> int:
    """The position after the token at ``at`` or, if it opens a bracket, after the closing one."""
    closing = [_CLOSING[tokens[at].text]] if tokens[at].text in _CLOSING else []
    at += 1
    while closing and at < len(tokens):
        word = tokens[at].text
        if word in _CLOSING:
            closing.append(_CLOSING[word])
        elif word == closing[-1]:
            closing.pop()
        at += 1
    return at
