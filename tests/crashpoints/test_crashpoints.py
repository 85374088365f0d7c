"""A sample of the points; ``nox -s crashpoints`` checks all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from .points import CUTS, VERBS, Point, Verb, check, quiet, turns_of

EVERY = 9
"""One in this many points is in the sample, and the last point of each operation."""


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_an_operation_interrupted_anywhere_is_recovered(verb: Verb, cut: str) -> None:
    turns = turns_of(verb)
    # a different sample for each way to interrupt
    first = 1 + 2 * CUTS.index(cut) % EVERY
    for count in sorted({*range(first, turns + 1, EVERY), turns}):
        check(Point(verb, cut, count))
