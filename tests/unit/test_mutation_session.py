"""How the mutation session judges its mutants, and finds what they change."""

from __future__ import annotations

import sys
import types

import pytest

from generated.cri import api_pb2
from tests.mutation.__main__ import judged, summary
from tests.mutation.operators import mutants
from tests.mutation.patch import canonical, changed_lines, replace_code
from tests.mutation.session import MISFIT, Outcome
from tests.mutation.specification import SpecError, Specification
from tests.unit.codegen.project import ROOT

OUTCOMES = [
    Outcome("Mount.readonly: drop", "killed", "test_a_request"),
    Outcome("Mount.image: drop", "refused", "nothing writes plan.mounts.image"),
    Outcome("Mount.host_path: drop", "survived"),
    Outcome("StreamImagesResponse.images: drop", "no code"),
]
_BOTH_WAYS, _OF_A_PLAN = "LinuxContainerResources.cpu_period", "StopContainerRequest.timeout"
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


def test_a_call_that_does_not_fit_kills_nothing() -> None:
    def apply(*, host: str) -> str:
        return host

    for wrong in ({}, {"host": "", "pod": ""}):
        with pytest.raises(TypeError) as raised:
            apply(**wrong)
        assert MISFIT.match(f"TypeError: {raised.value}")
    assert not MISFIT.match("TypeError: can only concatenate str")


def test_replaced_code_is_that_of_everybody_who_imported_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("generated.oci.example")
    code = "from __future__ import annotations\ndef apply(src: int, pod: str): return src\n"
    exec(code, vars(module))  # noqa: S102 - as generated
    monkeypatch.setitem(sys.modules, module.__name__, module)
    imported = module.apply
    changed = code.replace("pod: str", "host: bool").replace("return src", "return host")
    replace_code("oci/example.py", compile(changed, "example", "exec"))
    assert imported(1, True) is True
    assert imported.__annotations__ == {"src": "int", "host": "bool"}
    replace_code("oci/example.py", None)
    assert imported(1, host=True) is None


def test_a_plan_that_loses_its_only_value_has_it_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("generated.plans")
    code = """
from dataclasses import dataclass
@dataclass(frozen=True, slots=True)
class Plan:
    image: str
def plan(src): return Plan(image=src)
"""
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, vars(module))  # noqa: S102 - as generated
    made = module.plan
    assert made("busybox").image == "busybox"
    without = code.replace("image: str", "pass").replace("image=src", "")
    replace_code("plans.py", compile(without, "plans", "exec"))
    assert not hasattr(made("busybox"), "image")


def test_a_file_without_entries_accepts_everything_and_answers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = types.ModuleType("generated.filters.example")
    code = """
from __future__ import annotations
def check(message) -> list: return [message]
def selected(src, items): return []
def selects_all(src): return False
def read(*, host) -> api_pb2.ImageSpec: return host
def item(src): return src
"""
    exec(code, vars(module))  # noqa: S102 - as generated
    monkeypatch.setitem(sys.modules, module.__name__, module)
    replace_code("filters/example.py", None)
    assert module.check("message") == []
    assert module.selected("src", [1]) == [1]
    assert module.selects_all("src") is True
    assert module.read(host="") == api_pb2.ImageSpec()
    with pytest.raises(ImportError):
        module.item("src")


def test_the_mutants_of_an_entry() -> None:
    """What each changes, or which rule of the generator refuses it."""
    specification = Specification(ROOT)
    before, changes = specification.generated(), {}
    for mutant in mutants(specification):
        if mutant.entry in (_BOTH_WAYS, _OF_A_PLAN):
            try:
                after = specification.generated(mutant)
            except SpecError as error:
                changes[mutant.name] = {error.faults[0].rule}
            else:
                paths = (before.keys() | after.keys()) - {"provenance.py"}
                changes[mutant.name] = {p for p in paths if before.get(p) != after.get(p)}
    builder, reader = (f"{of}/linux_container_resources.py" for of in ("oci", "statuses"))
    validator = "validators/linux_container_resources.py"
    assert changes == {
        f"{_BOTH_WAYS}: drop": {"read-though-unmapped"},
        f"{_BOTH_WAYS}: when always": {builder},
        f"{_BOTH_WAYS}: drop the rule range 0, 1000000": {"narrowing-without-rule"},
        f"{_BOTH_WAYS}: range 0, 1000000 becomes range -1, 1000000": {"narrowing-without-rule"},
        f"{_BOTH_WAYS}: range 0, 1000000 becomes range 0, 1000001": {validator},
        f"{_BOTH_WAYS}: range 0, 1000000 becomes range 1, 1000000": {validator},
        f"{_BOTH_WAYS}: range 0, 1000000 becomes range 0, 999999": {validator},
        f"{_BOTH_WAYS}: swap targets with cpu_shares": {builder, reader},
        f"{_BOTH_WAYS}: not written": {builder},
        f"{_BOTH_WAYS}: not read back": {reader},
        f"{_OF_A_PLAN}: drop": {"plan-without-writer"},
        f"{_OF_A_PLAN}: when nonzero": {"key-does-not-fit"},
        f"{_OF_A_PLAN}: plan.grace is 0": {"plans.py"},
    }
