"""Which tests mention a field, a function or an RPC, by the words of their source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from codegen.site.excerpts import Files, indent

_TEST = re.compile(r"( *)(?:async )?def (test_\w+)")
_WORD = re.compile(r"\w+")
_PAIR = re.compile(r"(?=\b(\w+\.\w+))")


@dataclass(frozen=True, slots=True, order=True)
class Mention:
    """A test function."""

    file: str
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Mentions:
    """All tests, by the words in them."""

    _by_word: dict[str, frozenset[Mention]]

    def of_word(self, word: str) -> frozenset[Mention]:
        """The tests that contain a word, or a pair such as ``module.function``."""
        return self._by_word.get(word, frozenset())

    def of_field(self, message: str, field: str, *, unique: bool) -> frozenset[Mention]:
        """The tests that name the field, and unless its name is ``unique`` also its message."""
        found = self.of_word(field)
        return found if unique else found & self.of_word(message.rpartition(".")[2])


def read(files: Files, folder: str) -> Mentions:
    """The tests below ``folder``."""
    found: dict[str, set[Mention]] = {}
    for name in files.python(folder):
        if name.rpartition("/")[2].startswith("test_"):
            for mention, text in _tests(files, name):
                for word in {*_WORD.findall(text), *_PAIR.findall(text)}:
                    found.setdefault(word, set()).add(mention)
    return Mentions({word: frozenset(tests) for word, tests in found.items()})


def _tests(files: Files, name: str) -> Iterator[tuple[Mention, str]]:
    """Every test function, with its decorators and body. The lines tell, which takes a tenth of the
    time of a syntax tree."""
    lines = files.lines(name)
    for number, line in enumerate(lines):
        begun = _TEST.match(line)
        if begun is None:
            continue
        first = last = number
        while first and lines[first - 1].strip():
            first -= 1
        for last in range(number + 1, len(lines)):
            text = lines[last].lstrip()
            if text and not text.startswith(")") and indent(lines[last]) <= len(begun[1]):
                break
        yield Mention(name, number + 1, begun[2]), "\n".join(lines[first : last + 1])
