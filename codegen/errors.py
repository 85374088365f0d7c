"""The generator's only error: what is wrong in the specification, where, and how to fix it.

The generator never stops at the first fault: a pass collects every ``Fault`` in ``Problems`` and
raises them together, sorted and without duplicates, so that a maintainer can fix a file in one
round.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, TypeVar

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a source file: a path as the user would type it, line and column from 1."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One mistake: its place, a sentence, the ID of the violated rule and a hint on how to fix it
    (both may be empty)."""

    place: Place
    message: str
    rule: str = ""
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" + (f" [{self.rule}]" if self.rule else "")
        return f"{text}\n    hint: {self.hint}" if self.hint else text


class SpecError(Exception):
    """The specification has faults: all faults that one pass found, sorted by place."""

    def __init__(
        self, message: str, place: Place, hint: str | None = None, rule: str | None = None
    ) -> None:
        super().__init__(message)
        self.faults: tuple[Fault, ...] = (Fault(place, message, rule or "", hint or ""),)

    @classmethod
    def of(cls, faults: Iterable[Fault]) -> Self:
        """One error with several faults, without duplicates."""
        every = sorted(set(faults))
        error = cls(every[0].message, every[0].place)
        error.faults = tuple(every)
        return error

    def __str__(self) -> str:
        return "\n".join(map(str, self.faults))


class Problems:
    """Collects faults during a pass; ``stop_if_any`` raises them all."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(
        self, message: str, place: Place, hint: str | None = None, rule: str | None = None
    ) -> None:
        """Record a fault and continue."""
        self._faults.append(Fault(place, message, rule or "", hint or ""))

    def take(self, error: SpecError) -> None:
        """Record the faults of an error."""
        self._faults.extend(error.faults)

    def extend(self, others: Iterable[Fault]) -> None:
        """Record faults that were found elsewhere."""
        self._faults.extend(others)

    def attempt(self, step: Callable[[], _Result]) -> _Result | None:
        """The result of ``step``, or None after recording the faults that stopped it."""
        try:
            return step()
        except SpecError as error:
            self.take(error)
            return None

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __bool__(self) -> bool:
        return bool(self._faults)

    def stop_if_any(self) -> None:
        """Raise ``SpecError`` if a fault was recorded."""
        if self._faults:
            raise SpecError.of(self._faults)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint with the known words most similar to ``word``, or None if none is similar."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


_LONGEST = 100


def shown(word: str) -> str:
    """A word of the command line as part of a sentence: in quotes if it could be overlooked or
    misread there, and without the middle if it is long."""
    text = word if word.isprintable() and word == word.strip() != "" else repr(word)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def misspelt(words: Iterable[str], known: Iterable[str]) -> set[str]:
    """Those of ``known`` that an unknown one of ``words`` probably means."""
    names = list(known)
    unknown = [word for word in words if word not in names]
    return {close for word in unknown for close in difflib.get_close_matches(word, names, n=1)}


def one_of(known: Iterable[str]) -> str:
    """A hint that lists every allowed word."""
    return f"allowed here: {', '.join(known) or 'nothing'}"
