"""Stubs: what a new CRI adds gets entries that check refuses, and nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import codegen.project
from codegen import generate
from codegen.__main__ import main
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, api, copy_of_spec

_ADDED = """
message SeedRequest {
    string id = 1;
    map<string, Seed> seeds = 2;
    repeated int64 from = 3;
}

message SeedResponse { Leaf leaf = 1; }
message Seed { Leaf leaf = 1; }
message Leaf {}
message SeedEmptyResponse {}
"""
_UNDECIDED = [
    "ContainerConfig.newest (list of int32, since 9.99) is undecided",
    "ImageSpec.newest (str, since 9.99) is undecided",
    "Seed.leaf (Leaf, since 9.99) is undecided",
    "SeedRequest.from (list of int64, since 9.99) is undecided",
    "SeedRequest.id (str, since 9.99) is undecided",
    "SeedRequest.seeds (map of str to Seed, since 9.99) is undecided",
    "SeedResponse.leaf (Leaf, since 9.99) is undecided",
    "VersionRequest.newest (bool, since 9.99) is undecided",
    "the RPC Plant (since 9.99) is undecided",
    "the RPC Water (since 9.99) is undecided",
]


def _copy(root: Path) -> None:
    copy_of_spec(root)
    shutil.copytree(ROOT / "generated/schemas", root / "generated/schemas")


@pytest.fixture
def bumped(tmp_path: Path) -> Path:
    """A project whose current CRI is newer than its mapping: fields of messages with entries,
    without, and with targets below; new messages and RPCs."""
    _copy(tmp_path)
    text = (tmp_path / f"spec/cri/{api().version}.proto").read_text()
    for old, new in (
        ("message ImageSpec {", "message ImageSpec {\n    string newest = 99;"),
        ("message ContainerConfig {", "message ContainerConfig {\n    repeated int32 newest = 99;"),
        ("message VersionRequest {", "message VersionRequest {\n    bool newest = 99;"),
        (
            "service RuntimeService {",
            "service RuntimeService {\n    rpc Plant(SeedRequest) returns (SeedResponse) {}\n"
            "    rpc Water(SeedRequest) returns (stream SeedEmptyResponse) {}",
        ),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "spec/cri/9.99.proto").write_text(text + _ADDED)
    (tmp_path / "spec/cri/current").write_text("9.99\n")
    return tmp_path


def _faults(root: Path) -> list[str]:
    with pytest.raises(SpecError) as raised:
        generate.load_project(root)
    return sorted(fault.message for fault in raised.value.faults)


def test_check_fails_with_exactly_the_list_of_what_is_undecided(
    bumped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_text() for p in (bumped / "spec").rglob("*.yaml")}
    assert main(["--root", str(bumped), "stubs"]) == 0
    assert set(capsys.readouterr().out.split()) == {
        "spec/mapping/container_config.yaml",
        "spec/mapping/image_spec.yaml",
        "spec/mapping/leaf.yaml",
        "spec/mapping/seed.yaml",
        "spec/mapping/seed_empty_response.yaml",
        "spec/mapping/seed_request.yaml",
        "spec/mapping/seed_response.yaml",
        "spec/mapping/version_request.yaml",
        "spec/rpc.yaml",
    }
    assert _faults(bumped) == _UNDECIDED
    for path, text in before.items():  # nothing that was written is lost
        kept = iter(path.read_text().splitlines())
        assert all(line in kept for line in text.splitlines()), path
    flows = {
        name: (bumped / f"spec/mapping/{name}.yaml").read_text().splitlines()[2]
        for name in ("seed_request", "seed", "leaf", "seed_response")
    }
    assert flows == {
        "seed_request": "flow: in",
        "seed": "flow: in",
        "leaf": "flow: both",
        "seed_response": "flow: out",
    }
    assert main(["--root", str(bumped), "stubs"]) == 0
    assert capsys.readouterr().out == "", "a second run has nothing to add"


@pytest.mark.parametrize("stubbed", [False, True])
def test_review_and_explain_know_what_is_undecided(
    bumped: Path, stubbed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(bumped)]
    if stubbed:
        assert main([*root, "stubs"]) == 0
        capsys.readouterr()
    assert main([*root, "review"]) == 0
    said = capsys.readouterr().out
    assert "undecided (8):\n" in said
    assert "\n  ImageSpec.newest: str, since CRI 9.99\n" in said
    assert main([*root, "explain", "newest"]) == 0
    said = capsys.readouterr().out
    assert "ImageSpec.newest\n  type       str, number 99, since CRI 9.99\n" in said
    assert "undecided" in said
    assert main([*root, "explain", "SeedRequest.seeds.leaf"]) == 0
    assert "Seed.leaf" in capsys.readouterr().out


def test_an_rpc_of_a_second_service_gets_an_entry_by_its_service(bumped: Path) -> None:
    path = bumped / "spec/cri/9.99.proto"
    other = "service Garden { rpc Version(SeedRequest) returns (SeedResponse) {} }\n"
    path.write_text(path.read_text() + other)
    assert main(["--root", str(bumped), "stubs"]) == 0
    both = "the RPC Version is of several services, and the entry could mean any"
    undecided = "the RPC Garden.Version (since 9.99) is undecided"
    assert _faults(bumped) == sorted([*_UNDECIDED, both, undecided])
    rpcs = bumped / "spec/rpc.yaml"
    text = rpcs.read_text()
    assert "\nRuntimeService.Version:" not in text
    rpcs.write_text(re.sub(r"^Version:", "RuntimeService.Version:", text, flags=re.M))
    assert _faults(bumped) == sorted([*_UNDECIDED, undecided])


def test_a_project_without_gaps_gets_no_stub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _copy(tmp_path)
    assert main(["--root", str(tmp_path), "stubs"]) == 0
    assert capsys.readouterr().out == ""


def test_a_new_project_gets_an_entry_for_everything_and_the_schemas(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    before = {p: p.read_text() for p in (tmp_path / "spec/mapping").glob("*.yaml")}
    for path in [*before, tmp_path / "spec/rpc.yaml"]:
        path.unlink()
    assert main(["--root", str(tmp_path), "stubs"]) == 0
    for path, text in before.items():
        assert path.read_text().splitlines()[:2] == text.splitlines()[:2]
    named = set(re.findall(r"^(\w+):$", (tmp_path / "spec/rpc.yaml").read_text(), re.M))
    assert named == {name for service in api().services.values() for name in service.methods}
    made = {path.name for path in (tmp_path / "generated/schemas").iterdir()}
    assert made == {Path(name).name for name in codegen.project.schemas()}


def test_a_message_without_fields_gets_its_first(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / f"spec/cri/{api().version}.proto"
    text = path.read_text()
    assert "message ImageFsInfoRequest {}" in text
    path.write_text(
        text.replace("message ImageFsInfoRequest {}", "message ImageFsInfoRequest { bool a = 1; }")
    )
    assert main(["--root", str(tmp_path), "stubs"]) == 0
    written = (tmp_path / "spec/mapping/image_fs_info_request.yaml").read_text()
    assert written.endswith(
        "\nfields:\n  a:\n    unmapped: undecided\n"
        f"    why: To be decided. bool, number 1, since CRI {api().version}.\n"
    )


def test_a_new_message_below_one_that_is_only_received_is_received(tmp_path: Path) -> None:
    _copy(tmp_path)
    text = (tmp_path / f"spec/cri/{api().version}.proto").read_text()
    text = text.replace("message Mount {", "message Mount {\n    Leaf leaf = 99;", 1)
    (tmp_path / "spec/cri/9.99.proto").write_text(text + "\nmessage Leaf { string id = 1; }\n")
    (tmp_path / "spec/cri/current").write_text("9.99\n")
    assert main(["--root", str(tmp_path), "stubs"]) == 0
    assert "\nflow: in\n" in (tmp_path / "spec/mapping/leaf.yaml").read_text()
