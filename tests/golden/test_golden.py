"""Every golden case: the generator makes the expected Python, which answers the examples as
written, or it refuses in the expected words. ``python -m tests.golden.update`` rewrites them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codegen import rules
from tests.golden.case import Case, all_cases, answers, lay_out, outcome, without_header

_CODEGEN = Path(__file__).parents[2] / "codegen"
_WHOLE_PROJECT = Path(__file__).parents[1] / "unit/codegen/test_mistakes.py"
"""Refusals of what no case has, such as the default specs."""
_LAST_ARGUMENT = re.compile(r'"([a-z]+(?:-[a-z]+)+)",?\n *\)')
"""A rule id where SpecError takes it."""
_RESULTS = ("oci", "record", "answer", "items", "passes", "plan", "told", "violations")


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_case(case: Case, tmp_path: Path) -> None:
    assert case.data["why"]
    lay_out(case, tmp_path)
    files, error = outcome(tmp_path)
    assert error == case.error
    wanted = case.python
    assert {name: without_header(text) for name, text in files.items() if name in wanted} == wanted
    if case.examples:
        expected = [{k: v for k, v in e.items() if k in _RESULTS} for e in case.examples]
        assert answers(case, tmp_path, files) == expected


def test_every_refusal_has_a_case() -> None:
    said = "".join(case.error or "" for case in all_cases())
    said += _WHOLE_PROJECT.read_text()
    # these need an rpc.yaml: test_generated.py
    written = set(rules.RULES) - {"unreached-entry", "plan-needs-facts"}
    for path in _CODEGEN.rglob("*.py"):
        written |= set(_LAST_ARGUMENT.findall(path.read_text()))
    missing = sorted(rule for rule in written if f"[{rule}]" not in said)
    assert missing == []
