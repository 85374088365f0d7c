"""An older package is served only where its messages are the same bytes, or a reason is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen import generate, older, protoc
from codegen.errors import Problems
from tests.unit.codegen.project import ROOT

OLDER = """
syntax = "proto3";
package runtime.old;
service S { rpc Get(Ask) returns (Told) {} }
message Ask { string id = 1; Kind kind = 2; }
message Told { repeated Ask asked = 1; map<string, string> labels = 2; }
enum Kind { A = 0; B = 1; }
"""
CURRENT = OLDER.replace("runtime.old", "runtime.v1")


def differing(current: str) -> dict[str, str]:
    files = protoc.descriptors({"old.proto": OLDER, "new.proto": current})
    old, new = sorted(files.file, key=lambda file: file.name, reverse=True)
    return dict(older.differences(old, new))


def test_what_is_new_does_not_matter() -> None:
    current = CURRENT.replace("Kind kind = 2;", "Kind kind = 2; bytes more = 3;")
    assert differing(current.replace("B = 1;", "B = 1; C = 2;")) == {}


def test_another_name_of_an_enum_value_does_not_matter() -> None:
    assert differing(CURRENT.replace("B = 1;", "RENAMED = 1;")) == {}
    assert list(differing(CURRENT.replace("B = 1;", "C = 2;"))) == ["Kind.B"]


def test_another_name_of_a_message_a_field_or_an_enum_does_not_matter() -> None:
    assert differing(CURRENT.replace("Kind", "Sort").replace("Ask", "Question")) == {}
    assert differing(CURRENT.replace("string id = 1", "string key = 1")) == {}
    assert list(differing(CURRENT.replace("Get(", "Fetch("))) == ["S.Get"]


@pytest.mark.parametrize(
    ("before", "after", "part", "words"),
    [
        ("string id = 1", "bytes id = 1", "Ask.id", "number 1, string in runtime.old"),
        ("string id = 1", "string id = 3", "Ask.id", "and number 3, string in runtime.v1"),
        ("repeated Ask asked", "Ask asked", "Told.asked", "repeated message Ask in runtime.old"),
        ("string id = 1; ", "", "Ask.id", "does not exist there"),
        ("B = 1", "B = 2", "Kind.B", "number 1 in runtime.old and number 2 in runtime.v1"),
        ("returns (Told)", "returns (Ask)", "S.Get", "Ask -> Told in runtime.old"),
        ("returns (Told)", "returns (stream Told)", "S.Get", "Ask -> stream Told in runtime.v1"),
        ("<string, string>", "<string, bytes>", "Told.LabelsEntry.value", "string in runtime.old"),
    ],
)
def test_every_difference_is_named(before: str, after: str, part: str, words: str) -> None:
    assert before in CURRENT
    found = differing(CURRENT.replace(before, after))
    assert list(found) == [part]
    assert words in found[part]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "spec/cri").mkdir(parents=True)
    (tmp_path / "spec/cri/old.proto").write_text(OLDER)
    return tmp_path


def faults(root: Path, text: str, current: str = CURRENT) -> list[str]:
    (root / older.FILE).write_text(text)
    problems = Problems()
    file = protoc.descriptors({"new.proto": current}).file[-1]
    problems.attempt(lambda: older.read(root, file, problems))
    return [str(fault) for fault in problems]


ENTRY = "runtime.old:\n  proto: spec/cri/old.proto\n  why: Old clients.\n"
BYTES = CURRENT.replace("string id", "bytes id")


def test_a_difference_needs_a_reason(root: Path) -> None:
    (fault,) = faults(root, ENTRY, BYTES)
    assert fault.startswith("spec/older.yaml:2:10: runtime.old cannot be served as runtime.v1: Ask")
    assert faults(root, f"{ENTRY}  differs: {{Ask.id: The same bytes.}}\n", BYTES) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{ENTRY}  differs: {{Ask.id: Once.}}\n", "Ask.id does not differ from runtime.v1"),
        (ENTRY.replace("old.proto", "none.proto"), "spec/cri/none.proto does not exist"),
        (ENTRY.replace("runtime.old", "runtime.other"), "is of package runtime.old"),
        ("runtime.old: {why: No proto.}\n", "proto"),
    ],
)
def test_what_cannot_be_meant_is_refused(root: Path, text: str, words: str) -> None:
    (fault,) = faults(root, text)
    assert fault.startswith("spec/older.yaml:")
    assert words in fault


def test_streams_are_refused(root: Path) -> None:
    streams = OLDER.replace("returns (Told)", "returns (stream Told)")
    (root / "spec/cri/old.proto").write_text(streams)
    (fault,) = faults(root, ENTRY, streams.replace("runtime.old", "runtime.v1"))
    assert "runtime.old has streams, which are not served: Get" in fault


def test_the_real_one_is_served_as_a_whole() -> None:
    problems = Problems()
    services = older.read(ROOT, generate.current_proto(ROOT), problems)
    assert not problems
    assert {service.name: len(service.methods) for service in services} == {
        "runtime.v1alpha2.RuntimeService": 24,
        "runtime.v1alpha2.ImageService": 5,
    }
