"""How the mutation session judges its mutants, and finds what they change."""

from __future__ import annotations

from tests.mutation.__main__ import judged, summary
from tests.mutation.patch import canonical, changed_lines
from tests.mutation.session import Outcome

OUTCOMES = [
    Outcome("Mount.readonly: drop", "killed", "test_a_request"),
    Outcome("Mount.image: drop", "refused", "nothing writes plan.mounts.image"),
    Outcome("Mount.host_path: drop", "survived"),
    Outcome("StreamImagesResponse.images: drop", "no code"),
]
EXCUSED = {"StreamImagesResponse.images: drop": "reason", "Mount.readonly: drop": "reason"}


def test_survivors_without_an_excuse_and_needless_excuses_are_faults() -> None:
    assert judged(OUTCOMES, EXCUSED, whole=True) == [
        "no fast test fails: Mount.host_path: drop",
        "excused.yaml need not excuse: Mount.readonly: drop",
    ]
    assert judged(OUTCOMES, EXCUSED, whole=False) == ["no fast test fails: Mount.host_path: drop"]


def test_the_summary_counts_all_but_excused_survivors() -> None:
    said = summary(OUTCOMES, EXCUSED)
    assert said == "3 mutants, 2 killed (1 by tests, 1 by the generator); 1 excused;"


def test_changed_lines_are_those_of_the_code_before() -> None:
    before = canonical('def f(a):\n    """Words."""\n    x = a  # why\n    y = 1\n    return x\n')
    assert before.splitlines() == ["def f(a):", "    x = a", "    y = 1", "    return x"]
    assert changed_lines(before, before.replace("x = a", "x = 0")) == {2}
    assert changed_lines(before, before.replace("    y = 1\n", "")) == {3}
    assert changed_lines(before, before.replace("    y = 1", "    y = 1\n    z = 2")) == {3, 4}
