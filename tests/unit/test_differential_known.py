"""Entries of known_differences.yaml, and cases that are made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from generated.cri import api_pb2
from tests.differential import known, requests, shrink
from tests.differential.compare import ABSENT, Difference

REQUEST = known.parsed(
    'CreateContainerRequest { config { tty: true envs { key: "A" } envs { key: "B" value: "1" } } }'
)


def entry(path: str = "a.b", **conditions: Any) -> known.Known:
    return known.Known(paths=(path,), reason="why", example=(), **conditions)


@pytest.mark.parametrize(
    ("written", "explains"),
    [
        (entry("Create.spec.mounts[/a].type"), True),
        (entry("**.mounts[*].*"), True),
        (entry("*.mounts[*].type"), False),
        (entry("**", builtin="bi*"), True),
        (entry("**", builtin="ti*"), False),
        (entry("**", ours="<absent>"), True),
        (entry("**", request="CreateContainerRequest.config.envs.value"), True),
        (entry("**", request="CreateContainerRequest.config.envs.key=B"), True),
        (entry("**", request="CreateContainerRequest.config.envs.key=C"), False),
        (entry("**", request="CreateContainerRequest.config.stdin"), False),
        (entry("**", request="StartContainerRequest.container_id"), False),
    ],
)
def test_an_entry_explains_by_path_values_and_request(written: known.Known, explains: bool) -> None:
    found = Difference("Create.spec.mounts[/a].type", "bind", ABSENT)
    assert written.explains(found, (REQUEST,)) is explains


def test_a_key_of_a_path_can_have_a_line_break() -> None:
    found = Difference("Create.unified[a\nb]", ABSENT, "1")
    assert entry("**.unified[*]").explains(found, ()) and entry("**").explains(found, ())
    assert not entry("**.unified").explains(found, ())


def test_an_entry_can_be_of_some_versions() -> None:
    assert entry(containerd=("1.", "2.1")).applies_to("2.1.9")
    assert not entry(containerd=("2.1",)).applies_to("1.6.20")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("known: [{paths: [a], example: []}]", "lacks reason"),
        ("known: [{paths: [a], example: [], reason: ' '}]", "the reason is empty"),
        ("known: [{paths: [a], example: [], reason: b, colour: c}]", "unknown colour"),
    ],
)
def test_a_malformed_entry_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "known.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        known.load(file)


def test_the_entries_of_this_project_are_well_formed() -> None:
    entries = known.load()
    assert entries
    for one in entries:
        assert [known.printed(known.parsed(known.printed(step))) for step in one.example]


def test_a_case_shrinks_to_what_shows_the_difference() -> None:
    steps: tuple[Message, ...] = (REQUEST, api_pb2.StartContainerRequest(container_id="x"))

    def still(smaller: tuple[Message, ...]) -> bool:
        first: Any = smaller[0]
        return any(env.key == "B" for env in first.config.envs)

    (left,) = shrink.shrunk(steps, still, tries=100)
    assert known.printed(left) == 'CreateContainerRequest { config { envs { key: "B" } } }'
    assert shrink.shrunk(steps, still, tries=0) == steps


def test_values_name_fields_of_the_cri() -> None:
    for path in requests.VALUES:
        message, _, field = path.partition(".")
        assert field in getattr(api_pb2, message).DESCRIPTOR.fields_by_name


def test_rules_of_the_mapping_are_known() -> None:
    assert requests.rules("LinuxContainerResources")["cpu_period"] == {"range": [0, 1000000]}
    assert requests.rules("ContainerConfig")["metadata"] == {"required": True}
