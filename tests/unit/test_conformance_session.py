"""How the conformance session divides critest's specs and passes its options."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from tests.conformance.__main__ import critest_flags, name_of, shares


def spec(*hierarchy: str, leaf: str = "works") -> dict[str, Any]:
    return {"ContainerHierarchyTexts": list(hierarchy), "LeafNodeText": leaf}


SPECS = [
    *[spec("[k8s.io] Container", "when it (re)starts", f"case {n}") for n in range(4)],
    *[spec("[k8s.io] Container", "when it stops", leaf=f"case {n}") for n in range(3)],
    spec("[k8s.io] Image"),
    spec("[k8s.io] Image Manager", "pull"),
]


@pytest.mark.parametrize("seed", range(5))
def test_every_spec_is_in_one_share_and_groups_stay_together(seed: int) -> None:
    patterns = shares(SPECS, 2, seed)
    took = [[p for p in patterns if re.search(p, name_of(one))] for one in SPECS]
    assert all(len(chosen) == 1 for chosen in took)
    shared = dict(zip(map(name_of, SPECS), took, strict=True))
    assert len({patterns.index(shared[name_of(one)][0]) for one in SPECS[:4]}) == 1
    assert sorted(sum(chosen == [p] for chosen in took) for p in patterns) == [4, 5]


def test_one_seed_gives_one_order() -> None:
    assert shares(SPECS, 3, 7) == shares(SPECS, 3, 7)


@pytest.mark.parametrize("websocket", [False, True])
def test_streams_go_over_spdy_unless_websocket_is_asked_for(websocket: bool) -> None:
    flags = critest_flags(argparse.Namespace(websocket=websocket), 7)
    assert "-ginkgo.seed=7" in flags
    ways = {"-websocket-exec", "-websocket-attach", "-websocket-portforward"}
    assert ways & set(flags) == (ways if websocket else set())
