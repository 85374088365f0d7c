"""The one error of the generator: what is wrong in the specification, where, and what to do.

The generator never stops at the first fault: a pass collects every ``SpecError`` it finds into a
``Problems`` and raises them together, so that a maintainer fixes a file in one round.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something was written: a path as the user would type it, line and column from 1."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"


class SpecError(Exception):
    """One fault of the specification: a sentence, its place, a hint that says what to do, and the
    id of the rule that it breaks."""

    def __init__(
        self, message: str, place: Place, hint: str | None = None, rule: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint
        self.rule = rule

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" + (f" [{self.rule}]" if self.rule else "")
        return f"{text}\n    hint: {self.hint}" if self.hint else text


class SpecErrors(Exception):
    """All faults of one pass, in the order of their places."""

    def __init__(self, errors: Iterable[SpecError]) -> None:
        self.errors = sorted(errors, key=lambda error: (error.place, error.message))
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class Problems:
    """Collects faults during a pass; ``stop_if_any`` raises them all."""

    def __init__(self) -> None:
        self._errors: list[SpecError] = []

    def add(
        self, message: str, place: Place, hint: str | None = None, rule: str | None = None
    ) -> None:
        """Record one fault and go on."""
        self._errors.append(SpecError(message, place, hint, rule))

    def take(self, error: SpecError | SpecErrors) -> None:
        """Record faults that a callee raised."""
        self._errors.extend(error.errors if isinstance(error, SpecErrors) else [error])

    def __iter__(self) -> Iterator[SpecError]:
        return iter(self._errors)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def stop_if_any(self) -> None:
        """Raise ``SpecErrors`` when a fault was recorded."""
        if self._errors:
            raise SpecErrors(self._errors)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the known words nearest to ``word``, or None when nothing is near."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else None


def one_of(known: Iterable[str]) -> str:
    """A hint that lists every allowed word."""
    return f"allowed here: {', '.join(known)}"
