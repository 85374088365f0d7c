"""A sample of the points; ``nox -s crashpoints`` checks every one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from .points import CUTS, VERBS, Point, Verb, check, quiet, turns_of

EVERY = 9
"""One point of so many is in the sample, and the last one of each verb."""


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    quiet()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_an_operation_interrupted_anywhere_is_recovered(verb: Verb, cut: str) -> None:
    turns = turns_of(verb)
    # another set of points for each way to cut
    first = 1 + 2 * CUTS.index(cut) % EVERY
    for count in sorted({*range(first, turns + 1, EVERY), turns}):
        check(Point(verb, cut, count))
