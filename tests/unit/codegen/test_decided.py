"""What changed about a field, enum value or RPC is named until a person has looked at it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from codegen import decided, generate, mapping_file, proto_api
from codegen.__main__ import main
from codegen.errors import Problems
from tests.unit.codegen.project import ROOT, api, copy_of_spec, settings


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], None]:
    """A function that changes the current CRI of a copy of the project in ``tmp_path``."""
    copy_of_spec(tmp_path)
    path = tmp_path / f"spec/cri/{api().version}.proto"

    def change(old: str, new: str) -> None:
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    return change


def _faults(root: Path) -> list[str]:
    """What is not as decided; other rules have tests of their own."""
    problems = Problems()
    files, _ = mapping_file.read_all(root, problems)
    generate.check_decided(root, files, problems)
    assert {f.rule for f in problems} <= {
        "changed-since-decided",
        "not-recorded",
        "decided-and-gone",
    }
    return sorted(map(str, problems))


_CHANGES = {
    "type": (
        "repeated Device devices = 8;",
        "repeated string devices = 8;",
        "ContainerConfig.devices has changed since it was decided:"
        " repeated Device = 8 → repeated string = 8 [changed-since-decided]",
        "ContainerConfig.devices",
    ),
    "label": (
        "string container_path = 1;\n    string host_path = 2;\n    bool readonly = 3;",
        "repeated string container_path = 1;\n    string host_path = 2;\n    bool readonly = 3;",
        "Mount.container_path has changed since it was decided:"
        " string = 1 → repeated string = 1 [changed-since-decided]",
        "Mount.container_path",
    ),
    "number": (
        "string log_path = 11;",
        "string log_path = 111;",
        "ContainerConfig.log_path has changed since it was decided:"
        " string = 11 → string = 111 [changed-since-decided]",
        "ContainerConfig.log_path",
    ),
    "presence": (
        "string log_path = 11;",
        "optional string log_path = 11;",
        "ContainerConfig.log_path has changed since it was decided:"
        " string = 11 → optional string = 11 [changed-since-decided]",
        "ContainerConfig.log_path",
    ),
    "deprecation": (
        "string log_path = 11;",
        "string log_path = 11 [deprecated = true];",
        "ContainerConfig.log_path has changed since it was decided:"
        " string = 11 → string = 11 [deprecated = true] [changed-since-decided]",
        "ContainerConfig.log_path",
    ),
    "oneof": (
        "string log_path = 11;",
        "oneof place { string log_path = 11; }",
        "ContainerConfig.log_path has changed since it was decided:"
        " string = 11 → oneof place string = 11 [changed-since-decided]",
        "ContainerConfig.log_path",
    ),
    "a stream": (
        "rpc Version(VersionRequest) returns (VersionResponse) {}",
        "rpc Version(VersionRequest) returns (stream VersionResponse) {}",
        "RuntimeService.Version has changed since it was decided: (VersionRequest) returns"
        " (VersionResponse) → (VersionRequest) returns (stream VersionResponse)"
        " [changed-since-decided]",
        "RuntimeService.Version",
    ),
    "enum values": (
        "PROPAGATION_HOST_TO_CONTAINER = 1;\n    PROPAGATION_BIDIRECTIONAL = 2;",
        "PROPAGATION_SLAVE = 1;\n    PROPAGATION_BIDIRECTIONAL = 4;\n    PROPAGATION_NONE = 3;",
        "MountPropagation has changed since it was decided: PROPAGATION_HOST_TO_CONTAINER →"
        " PROPAGATION_SLAVE; PROPAGATION_BIDIRECTIONAL = 2 → 4; PROPAGATION_NONE = 3 is new"
        " [changed-since-decided]",
        "MountPropagation",
    ),
}


@pytest.mark.parametrize("what", _CHANGES)
def test_a_change_is_named_until_it_is_decided(
    tmp_path: Path,
    changed: Callable[[str, str], None],
    what: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new, says, name = _CHANGES[what]
    changed(old, new)
    [fault] = _faults(tmp_path)
    place, _, said = fault.partition(": ")
    file, line, _ = place.split(":")
    assert name.rpartition(".")[2] in (tmp_path / file).read_text().splitlines()[int(line) - 1]
    assert said.splitlines()[0] == says
    assert said.endswith(f"cri-codegen decide {name}")
    assert main(["--root", str(tmp_path), "decide", name]) == 0
    assert capsys.readouterr().out == "spec/decided.yaml\n"
    before = (ROOT / "spec/decided.yaml").read_text().splitlines()
    after = (tmp_path / "spec/decided.yaml").read_text().splitlines()
    assert len([line for line in before if line not in after]) <= 2, "no other record changes"
    assert _faults(tmp_path) == []


def test_what_is_new_is_recorded_once_its_entry_is_decided(
    tmp_path: Path, changed: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    changed("string log_path = 11;", "string log_path = 11;\n    string colour = 99;")
    root = ["--root", str(tmp_path)]
    assert _faults(tmp_path) == [], "another rule says that it has no entry"
    assert main([*root, "decide", "ContainerConfig.colour"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("ContainerConfig.colour: ContainerConfig has undecided parts: colour\n")
    main([*root, "stubs"])
    assert _faults(tmp_path) == [], "another rule says that it is undecided"
    assert main([*root, "decide", "ContainerConfig"]) == 1
    path = tmp_path / "spec/mapping/container_config.yaml"
    path.write_text(path.read_text().replace("unmapped: undecided", "unmapped: informational"))
    [fault] = _faults(tmp_path)
    assert ": not recorded as decided: ContainerConfig.colour [not-recorded]\n" in fault
    assert fault.endswith(": cri-codegen decide ContainerConfig.colour")
    assert main([*root, "decide", "ContainerConfig.colour"]) == 0
    assert _faults(tmp_path) == []
    assert "  colour: string = 99\n" in (tmp_path / "spec/decided.yaml").read_text()


def test_an_enum_with_new_names_is_told_in_short_with_who_reads_the_names(
    tmp_path: Path, changed: Callable[[str, str], None]
) -> None:
    text = (ROOT / f"spec/cri/{api().version}.proto").read_text()
    [enum] = re.findall(r"enum Signal \{[^}]*\}", text)
    changed(enum, re.sub(r"\bSIG([A-Z])", r"SIGNAL_\1", enum))
    [fault] = _faults(tmp_path)
    assert ": Signal has changed since it was decided: SIGABRT → SIGNAL_ABRT; " in fault
    assert fault.count(" → ") == 4
    assert "; and 61 more [changed-since-decided]\n" in fault
    assert "; its names are read as text in runtime/transforms/signals.py:" in fault


def test_a_message_without_fields_needs_no_record(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    before = (tmp_path / "spec/decided.yaml").read_bytes()
    assert main(["--root", str(tmp_path), "decide", "StopContainerResponse"]) == 0
    assert (tmp_path / "spec/decided.yaml").read_bytes() == before
    assert b"{}" not in before


def test_check_says_what_is_not_as_decided(
    tmp_path: Path, changed: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    changed("string image_ref = 20;", "string image_ref = 21;")
    assert main(["--root", str(tmp_path), "check"]) == 1
    said = "ImageSpec.image_ref has changed since it was decided: string = 20 → string = 21"
    assert said in capsys.readouterr().err


def test_what_is_gone_stays_named_until_its_record_is_removed(
    tmp_path: Path, changed: Callable[[str, str], None]
) -> None:
    changed("    string image_ref = 20;\n", "")
    path = tmp_path / "spec/mapping/image_spec.yaml"
    assert _faults(tmp_path) == [], "another rule says that the entry is for no field"
    text = path.read_text()
    path.write_text(text[: text.index("  image_ref:")])
    [fault] = _faults(tmp_path)
    assert ": the CRI no longer has ImageSpec.image_ref [decided-and-gone]\n" in fault
    assert fault.endswith(": cri-codegen decide ImageSpec.image_ref")
    line = int(fault.split(":")[1])
    recorded = (tmp_path / "spec/decided.yaml").read_text().splitlines()
    assert recorded[line - 1] == "  image_ref: string = 20"
    assert main(["--root", str(tmp_path), "decide", "ImageSpec.image_ref"]) == 0
    assert _faults(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ContainerConfg.image", "is no part of the CRI\n    hint: did you mean ContainerConfig"),
        ("ContainerConfig.imag", "ContainerConfig has no imag\n    hint: did you mean image?"),
        ("'ImageSpec.x '", "ImageSpec has no 'x '"),
        ("''", "is no part of the CRI\n    hint: name a field, as in Message.field, an RPC, or"),
        ("..", "is no part of the CRI"),
    ],
)
def test_a_wrong_name_is_refused_and_nothing_is_recorded(
    tmp_path: Path, name: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    before = (tmp_path / "spec/decided.yaml").read_bytes()
    given = name.strip("'")
    assert main(["--root", str(tmp_path), "decide", "ContainerConfig.image", given]) == 1
    assert capsys.readouterr().err.startswith(f"{name}: {says}")
    assert (tmp_path / "spec/decided.yaml").read_bytes() == before


def test_a_record_that_is_missing_is_one_fault_and_can_be_made(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / "spec/decided.yaml"
    before = path.read_text()
    path.unlink()
    [fault] = _faults(tmp_path)
    assert fault.startswith("spec/decided.yaml: is missing, so nothing is recorded as decided")
    assert main(["--root", str(tmp_path), "decide", "--all"]) == 0
    assert path.read_text() == before
    path.unlink()
    every = decided.parts(generate.current_proto(tmp_path))
    assert main(["--root", str(tmp_path), "decide", *every]) == 0
    assert path.read_text() == before
    path.write_text("{}\n")
    owners = [name for name, parts in every.items() if parts]
    assert len(_faults(tmp_path)) == len(owners), "an empty record is a record"


def test_the_record_of_each_pinned_version_reads_back() -> None:
    for version, text in proto_api.pinned(ROOT).items():
        found = decided.parts(proto_api.descriptor(settings().api, version, text))
        again = decided.text(found, found)
        assert again.count("\n  ") == sum(map(len, found.values()))
