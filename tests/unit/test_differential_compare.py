"""What differs between two trees, and what is made equal before."""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.compare import ABSENT, Difference, differences
from tests.differential.normalize import IDENTITY, normal
from tests.differential.pair import Answer, step_differences


@pytest.mark.parametrize(
    ("builtin", "ours", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, [], id="control"),
        pytest.param({"a": 1}, {"a": 2}, [Difference("a", 1, 2)], id="a value"),
        pytest.param({"a": {"b": 1}}, {}, [Difference("a.b", 1, ABSENT)], id="a missing object"),
        pytest.param({"a": {}}, {}, [], id="an empty object is absent"),
        pytest.param({"x.y": 1}, {}, [Difference("[x.y]", 1, ABSENT)], id="a key with a dot"),
        pytest.param(
            {"caps": ["A", "B"]},
            {"caps": ["A"]},
            [Difference("caps[B]", "B", ABSENT)],
            id="an item",
        ),
        pytest.param(
            {"caps": ["A", "B"]},
            {"caps": ["B", "A"]},
            [Difference("caps.order", ["A", "B"], ["B", "A"])],
            id="the order",
        ),
        pytest.param(
            {"mounts": [{"destination": "/a", "type": "x"}]},
            {"mounts": [{"destination": "/b"}, {"destination": "/a", "type": "y"}]},
            [
                Difference("mounts[/a].type", "x", "y"),
                Difference("mounts[/b].destination", ABSENT, "/b"),
            ],
            id="items by identity",
        ),
        pytest.param(
            {"env": ["A=1"]}, {"env": ["A=2"]}, [Difference("env[A]", "1", "2")], id="variables"
        ),
        pytest.param(
            {"env": ["A=1", "A=1"]},
            {"env": ["A=1"]},
            [Difference("env", ["A=1", "A=1"], ["A=1"])],
            id="items without identity as a whole",
        ),
    ],
)
def test_differences(builtin: Any, ours: Any, expected: list[Difference]) -> None:
    assert list(differences(builtin, ours, IDENTITY)) == expected


def test_what_differs_by_nature_becomes_equal() -> None:
    tree = {
        "created_at": "1234",
        "finished_at": "0",
        "source": "/proc/12/ns/net of " + "ab" * 32,
        "info": '{"pid": 12}',
    }
    assert normal(tree, {"ab" * 32: "<pod:new>"}) == {
        "created_at": "<time>",
        "finished_at": "0",
        "source": "/proc/<pid>/ns/net of <pod:new>",
        "info": {"pid": "<pid>"},
    }


@pytest.mark.parametrize(
    ("builtin", "ours", "paths"),
    [
        (Answer("OK", tree={"a": 1}), Answer("OK", tree={"a": 1}), []),
        (Answer("UNKNOWN", "x"), Answer("UNKNOWN", "y"), []),
        (Answer("UNKNOWN", "x"), Answer("NOT_FOUND", "x"), ["Call.code"]),
        (Answer("UNKNOWN", "x"), Answer("OK"), ["Call.accepted"]),
        (
            Answer("OK"),
            Answer("INVALID_ARGUMENT", "config.mounts[0].host_path: a; other: b; config.tty: c"),
            ["Call.refused[config.mounts.host_path]", "Call.refused[config.tty]"],
        ),
        (Answer("OK"), Answer("NOT_FOUND", "gone"), ["Call.refused[NOT_FOUND]"]),
    ],
)
def test_codes(builtin: Answer, ours: Answer, paths: list[str]) -> None:
    assert [one.path for one in step_differences("Call", builtin, ours, {"config"})] == paths


def test_differences_of_one_cause_are_one_group() -> None:
    first = Difference("CreateContainer.container.spec.mounts[/a].type", 1, 2)
    second = Difference("StartContainer.container.spec.mounts[/b].type", 1, 2)
    assert first.group == second.group == "container.spec.mounts[*].type"
