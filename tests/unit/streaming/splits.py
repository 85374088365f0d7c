"""Any split of the input gives the same events: how tests of the state machines cut their input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hypothesis import strategies as st


def cuts(most: int = 12) -> st.SearchStrategy[list[int]]:
    """Where to cut, in thousandths of the whole."""
    return st.lists(st.integers(0, 1000), max_size=most)


def pieces(whole: bytes, at: Sequence[int]) -> Iterator[bytes]:
    """The input, cut; some pieces may be empty."""
    places = [0, *sorted(len(whole) * part // 1000 for part in at), len(whole)]
    for start, end in itertools.pairwise(places):
        yield whole[start:end]
