"""Changes between two versions, by name; each with a control that must not be reported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import diff, load, mapping_file, proto_api
from codegen.__main__ import main
from codegen.errors import SpecError
from codegen.model import MappingFile
from tests.unit.codegen.project import ROOT, copy_of_spec, settings

_BEFORE = """\
syntax = "proto3";
package runtime.v1;
service Boxes { rpc Open(Box) returns (Box) {} rpc Shut(Box) returns (Box) {} }
enum Color { RED = 0; }
message Box { int64 same = 1; int64 gone = 2; int64 moved = 3; int64 typed = 4; string secret = 5; }
message Gone {}
"""
_AFTER = """\
syntax = "proto3";
package runtime.v1;
service Boxes { rpc Open(Box) returns (stream Box) {} rpc Lock(Box) returns (Box) {} }
enum Color { RED = 0; BLUE = 1; }
message Box {
  int64 same = 1 [deprecated = true]; int64 moved = 13; string typed = 4;
  string secret = 5 [debug_redact = true];
  repeated string names = 6;
}
"""


def _proto(text: str) -> FileDescriptorProto:
    return proto_api.descriptor(settings().api, "1.0", text)


def test_changes_of_an_api() -> None:
    found = diff.of_protos(_proto(_BEFORE), _proto(_AFTER))
    assert sorted(change.markdown() for change in found) == [
        "- **enum-value-gained** `Color.BLUE`: = 1",
        "- **field-deprecated** `Box.same`",
        "- **field-gained** `Box.names`: repeated string = 6",
        "- **field-lost** `Box.gone`: int64 = 2",
        "- **field-redaction-changed** `Box.secret`: nothing → debug_redact = True",
        "- **field-renumbered** `Box.moved`: 3 → 13",
        "- **field-retyped** `Box.typed`: int64 → string",
        "- **message-lost** `Gone`",
        "- **rpc-changed** `Boxes.Open`: (Box) returns (Box) → (Box) returns (stream Box)",
        "- **rpc-renamed** `Boxes.Shut`: now Lock",
    ]
    assert diff.of_protos(_proto(_BEFORE), _proto(_BEFORE)) == []


def _mapping(text: str) -> dict[str, MappingFile]:
    head = "message: runtime.v1.Box\nflow: in\nfields:\n"
    node = load.yaml_text(head + text, "box.yaml")
    return {"Box": mapping_file.from_node(node, "box.yaml", "runtime.v1")}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{copy: a.b, why: w}", "{copy: a.b, why: w}", []),
        ("{copy: a.b, why: w}", "{copy: a.c, why: w}", ["**target-moved** `Box.f`: a.b → a.c"]),
        (
            "{copy: a.b, when: nonzero, why: w}",
            "{copy: a.b, why: w}",
            ["**condition-changed** `Box.f`: nonzero → always"],
        ),
        (
            "{copy: a.b, why: w}",
            "{handled_by: x.y, why: w}",
            ["**fate-changed** `Box.f`: copy a.b → handled by x.y"],
        ),
        (
            "{compute: a, by: x.y, from: [f], why: w}",
            "{compute: a, by: x.z, from: [f, g as h], why: w}",
            [
                "**transform-changed** `Box.f`: x.y → x.z",
                "**inputs-changed** `Box.f`: f → f, g as h",
            ],
        ),
        (
            "{copy: a, rules: [nonnegative, {range: [0, 5]}], why: w}",
            "{copy: a, rules: [nonnegative, required], why: w}",
            ["**rule-gained** `Box.f: required`", "**rule-lost** `Box.f: range 0, 5`"],
        ),
        (
            "{unmapped: informational, why: w}",
            "{unmapped: superseded, if_set: refuse, why: v}",
            [
                "**reason-changed** `Box.f`: informational → superseded",
                "**refusal-changed** `Box.f`: ignore → refuse",
                "**reason-reworded** `Box.f`",
            ],
        ),
    ],
)
def test_changes_of_an_entry(old: str, new: str, told: list[str]) -> None:
    found = diff.of_mappings(_mapping(f"  f: {old}"), _mapping(f"  f: {new}"))
    assert [change.markdown() for change in found] == [f"- {line}" for line in told]


def test_a_revision_is_compared_with_the_working_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "spec"], ["commit", "-q", "-m", "spec"]):
        subprocess.run([*git, *words], check=True)
    path = tmp_path / "spec/mapping/linux_container_resources.yaml"
    path.write_text(path.read_text().replace("cpu.quota\n    when: nonzero", "cpu.quota"))
    rpcs = tmp_path / "spec/rpc.yaml"
    rpcs.write_text(rpcs.read_text().replace("served_by: node.version", "served_by: node.versions"))
    metrics = tmp_path / "spec/metrics.yaml"
    metrics.write_text(metrics.read_text().replace("key: file_mapped", "key: shmem"))
    assert main(["--root", str(tmp_path), "diff", "HEAD"]) == 0
    assert capsys.readouterr().out == (
        "## HEAD → the working tree\n\n"
        "- **condition-changed** `LinuxContainerResources.cpu_quota`: nonzero → always\n"
        "- **table-changed** `metrics.metrics.container_memory_mapped_file.v2.key`: "
        "file_mapped → shmem\n"
        "- **table-changed** `rpc.Version.served_by`: node.version → node.versions\n"
    )
    assert main(["--root", str(tmp_path), "diff", "no-such-revision"]) == 1
    assert "is not a revision with spec/" in capsys.readouterr().err


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a revision"):
        diff.at_revision(tmp_path, "HEAD")


def test_pinned_versions_are_compared_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(ROOT), "diff", "1.35", "1.36"]) == 0
    assert "- **field-gained** `ImageSpec.image_ref`: string = 20\n" in capsys.readouterr().out
