"""Changes between two versions, by name; each with a control that must not be reported."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import diff, load, mapping_diff, mapping_file, proto_api, proto_diff
from codegen.__main__ import main
from codegen.errors import Place, SpecError
from codegen.model import Back, Entry, Input, MappingFile, Rule
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
    found = proto_diff.changes(_proto(_BEFORE), _proto(_AFTER))
    assert sorted(change.markdown() for change in found) == [
        "- **enum-value-gained** `Color.BLUE`: = 1",
        "- **field-deprecated** `Box.same`",
        "- **field-gained** `Box.names`: repeated string = 6",
        "- **field-lost** `Box.gone`: int64 = 2",
        "- **field-redaction-changed** `Box.secret`: nothing → debug_redact = true",
        "- **field-renumbered** `Box.moved`: 3 → 13",
        "- **field-retyped** `Box.typed`: int64 → string",
        "- **message-lost** `Gone`",
        "- **rpc-changed** `Boxes.Open`: (Box) returns (Box) → (Box) returns (stream Box)",
        "- **rpc-renamed** `Boxes.Shut`: now Lock",
    ]
    assert proto_diff.changes(_proto(_BEFORE), _proto(_BEFORE)) == []


def _mapping(text: str) -> dict[str, MappingFile]:
    head = "message: runtime.v1.Box\nflow: in\nfields:\n"
    node = load.yaml_text(head + text, "box.yaml")
    return {"Box": mapping_file.from_node(node, "box.yaml", "runtime.v1")}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{copy: a.b, why: w}", "{copy: a.b, why: w}", []),
        ("{copy: a.b, why: w}", "{copy: a.c, why: w}", ["!target-moved: a.b → a.c"]),
        (
            "{copy: a.b, when: nonzero, why: w}",
            "{copy: a.b, why: w}",
            ["!condition-loosened: nonzero → always"],
        ),
        (
            "{copy: a.b, when: set, why: w}",
            "{copy: a.b, when: nonempty, why: w}",
            ["!condition-tightened: set → nonempty"],
        ),
        (
            "{copy: a.b, when: nonzero, why: w}",
            "{copy: a.b, when: nonempty, why: w}",
            ["!condition-changed: nonzero → nonempty"],
        ),
        (
            "{copy: a.b, why: w}",
            "{handled_by: x.y, why: w}",
            ["!fate-changed: copy a.b → handled by x.y"],
        ),
        ("{handled_by: x.y, why: w}", "{handled_by: x.z, why: w}", ["!reader-changed: x.y → x.z"]),
        (
            "{compute: a, by: x.y, from: [f, image.user, k as l], why: w}",
            "{compute: a, by: x.z, from: [f, g as h, n, m as l], why: w}",
            [
                "!transform-changed: x.y → x.z",
                "!input-gained: g as h; n",
                "!input-changed: l: k → m",
                "!input-lost: image.user",
            ],
        ),
        (
            "{copy: a, rules: [nonnegative, {range: [0, 5]}], why: w}",
            "{copy: a, rules: [nonnegative, required], why: w}",
            ["!rule-gained: required", " rule-dropped: range 0, 5"],
        ),
        (
            "{copy: a, rules: [{range: [0, 5]}, {one_of: [a, b]}, {max_length: 5}], why: w}",
            "{copy: a, rules: [{range: [1, 5]}, {one_of: [a]}, {max_length: 4}], why: w}",
            [
                "!range-narrowed: range 0, 5 → range 1, 5",
                "!one-of-narrowed: one_of a, b → one_of a",
                "!max-length-narrowed: max_length 5 → max_length 4",
            ],
        ),
        (
            "{copy: a, rules: [{range: [0, 5]}, {without: ab}, {requires: [a, b]}], why: w}",
            "{copy: a, rules: [{range: [0, 9]}, {without: a}, {requires: [b]}], why: w}",
            [
                " range-widened: range 0, 5 → range 0, 9",
                " without-widened: without ab → without a",
                " requires-widened: requires a, b → requires b",
            ],
        ),
        (
            "{copy: a, rules: [{range: [0, 5]}, {one_of: [a, b]}], why: w}",
            "{copy: a, rules: [{range: [1, 9]}, {one_of: [b, c]}], why: w}",
            [
                "!range-changed: range 0, 5 → range 1, 9",
                "!one-of-changed: one_of a, b → one_of b, c",
            ],
        ),
        (
            "{unmapped: informational, why: w}",
            "{unmapped: superseded, if_set: refuse, why: v}",
            [
                " reason-changed: informational → superseded",
                "!refusal-changed: ignore → refuse",
                " reason-reworded",
            ],
        ),
        (
            "{unmapped: superseded, if_set: refuse, why: w}",
            "{unmapped: superseded, why: w}",
            [" refusal-changed: refuse → ignore"],
        ),
    ],
)
def test_changes_of_an_entry(old: str, new: str, told: list[str]) -> None:
    """Those that can break what runs are marked."""
    found = list(mapping_diff.changes(_mapping(f"  f: {old}"), _mapping(f"  f: {new}")))
    assert {change.subject for change in found} <= {"Box.f"}
    assert [
        ("!" if change.effect == mapping_diff.DANGEROUS else " ")
        + ": ".join(filter(None, (change.kind, change.detail)))
        for change in found
    ] == sorted(told, key=lambda line: line[1:])


_PLAIN = Entry("f", Place("x"), "compute", "a", Place("x"), {}, "w", by="x.y")
_INPUT = Input("g", "g", Place("x"))


@pytest.mark.parametrize("attribute", [field.name for field in dataclasses.fields(Entry)])
def test_no_change_of_an_entry_goes_untold(attribute: str) -> None:
    if attribute in ("name", "place", "value_place", "keys"):
        return  # not what it says
    values: dict[str, object] = {
        "fate": "copy",
        "inputs": (_INPUT,),
        "of": _INPUT,
        "rules": (Rule("required", (), Place("x")),),
        "back": Back("x.y", (), Place("x")),
    }
    other = dataclasses.replace(_PLAIN, **{attribute: values.get(attribute, "set")})  # type: ignore[arg-type]
    old, new = _mapping("  f: {copy: a, why: w}"), _mapping("  f: {copy: a, why: w}")
    old["Box"] = dataclasses.replace(old["Box"], entries={"f": _PLAIN})
    new["Box"] = dataclasses.replace(new["Box"], entries={"f": other})
    assert list(mapping_diff.changes(old, new))
    assert not list(mapping_diff.changes(old, old))


def test_a_change_that_can_break_what_runs_needs_its_reason() -> None:
    old = "  f: {copy: a.b, why: w}\n  g: {copy: a.c, why: w}\n"
    new = "  f: {copy: a.d, why: w}\n  g: {copy: a.c, why: clearer}\n"
    (fault,) = mapping_diff.unreasoned(_mapping(old), _mapping(new), "v1")
    assert str(fault) == (
        "box.yaml:4:3: target-moved Box.f since v1 (a.b → a.d); it can break what runs [no-reason]"
        "\n    hint: say under `changed:` why, and what happens to what runs"
    )
    reasoned = "  f: {copy: a.d, why: w, changed: Tools read it there.}\n  g: {copy: a.c, why: w}\n"
    assert mapping_diff.unreasoned(_mapping(old), _mapping(reasoned), "v1") == []
    # the same words cannot be the reason of the next change
    again = reasoned.replace("a.d", "a.e")
    assert len(mapping_diff.unreasoned(_mapping(reasoned), _mapping(again), "v2")) == 1


def test_an_entry_that_is_gone_is_explained_by_its_file() -> None:
    old = _mapping("  f: {copy: a.b, why: w}\ntargets:\n  c: {copy: d, why: w}\n")
    new = "  f: {copy: a.b, why: w}\n"
    (fault,) = mapping_diff.unreasoned(old, _mapping(new), "v1")
    assert fault.message.startswith("entry-lost Box.c since v1 (copy d)")
    assert mapping_diff.unreasoned(old, _mapping(new + "changed: Nobody needs c.\n"), "v1") == []


def test_a_revision_is_compared_with_the_working_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "spec"], ["commit", "-q", "-m", "spec"]):
        subprocess.run([*git, *words], check=True)
    _replace(
        tmp_path / "spec/mapping/linux_container_resources.yaml",
        "cpu.quota\n    when: nonzero",
        "cpu.quota",
    )
    _replace(tmp_path / "spec/rpc.yaml", "served_by: node.version", "served_by: node.versions")
    _replace(tmp_path / "spec/metrics.yaml", "key: file_mapped", "key: shmem")
    _replace(
        tmp_path / "spec/oci/default_container.json",
        '"CAP_MKNOD"',
        '"CAP_BPF"',
    )
    assert main(["--root", str(tmp_path), "diff", "HEAD"]) == 0
    assert capsys.readouterr().out == (
        "## HEAD → the working tree\n\n"
        "### Can break what runs (4): a request that worked may be refused, or becomes something "
        "else\n\n"
        "- **condition-loosened** `LinuxContainerResources.cpu_quota`: nonzero → always\n"
        "- **default-changed** `container_spec.process.capabilities.bounding`: "
        "+CAP_BPF, -CAP_MKNOD\n"
        "- **table-changed** `metrics.metrics.container_memory_mapped_file.v2.key`: "
        "file_mapped → shmem\n"
        "- **table-changed** `rpc.Version.served_by`: node.version → node.versions\n"
    )
    assert main(["--root", str(tmp_path), "diff", "HEAD", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["old"], told["new"]) == ("HEAD", "the working tree")
    assert told["changes"][0] == {
        "kind": "condition-loosened",
        "subject": "LinuxContainerResources.cpu_quota",
        "detail": "nonzero → always",
        "effect": "can break what runs",
    }
    assert main(["--root", str(tmp_path), "check", "--against", "HEAD"]) == 1
    assert "condition-loosened LinuxContainerResources.cpu_quota" in capsys.readouterr().err
    assert main(["--root", str(tmp_path), "diff", "no-such-revision"]) == 1
    assert "is not a revision with spec/" in capsys.readouterr().err


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_missing_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a revision"):
        diff.at_revision(tmp_path, "HEAD")


def test_pinned_versions_are_compared_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(ROOT), "diff", "1.35", "1.36"]) == 0
    assert "- **field-gained** `ImageSpec.image_ref`: string = 20\n" in capsys.readouterr().out


@pytest.mark.parametrize("revision", ["--output=stolen", "-x", ""])
def test_no_revision_reaches_git_as_an_option(tmp_path: Path, revision: str) -> None:
    with pytest.raises(SpecError, match="is no revision of git"):
        diff.at_revision(tmp_path, revision)
    assert not any(tmp_path.iterdir())


def test_a_pinned_version_alone_is_compared_with_the_current_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--root", str(ROOT), "diff", "1.35"]) == 0
    assert capsys.readouterr().out.startswith("## 1.35 → 1.36\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["1.99", "1.36"], "REVISION '1.99': is no pinned version of the CRI, and 1.36 is\n"),
        (["1.36", "1.99"], "REVISION '1.99': is no pinned version of the CRI, and 1.36 is\n"),
        (["1.36", "HEAD"], "REVISION 'HEAD': is no pinned version of the CRI, and 1.36 is\n"),
    ],
)
def test_of_two_words_the_wrong_one_is_named(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(ROOT), "diff", *given]) == 1
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(("word", "hint"), [("1.99", "pinned versions: 1.25, "), ("no", "HEAD")])
def test_a_word_that_is_no_revision_gets_what_it_can_be(
    tmp_path: Path, word: str, hint: str
) -> None:
    copy_of_spec(tmp_path)
    with pytest.raises(SpecError) as raised:
        diff.at_revision(tmp_path, word)
    assert hint in raised.value.faults[0].hint
