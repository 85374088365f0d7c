"""Importing an API gives equivalent text that does not change when it is imported again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from codegen import proto_import, proto_text, protoc
from codegen.__main__ import main
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, begin, settings

_PUBLISHED = """\
// Copyright holders and a licence.
syntax = 'proto3';
package runtime.v1;
option go_package = "k8s.io/cri-api/pkg/apis/runtime/v1";

import "github.com/gogo/protobuf/gogoproto/gogo.proto";

option (gogoproto.goproto_stringer_all) = false;
option (gogoproto.marshaler_all) = true;

/* The service; a url: https://kubernetes.io and a "quote". */
service Runtime {
    // Version returns.
    rpc Version(VersionRequest) returns (VersionResponse) {}
}

message VersionRequest {
    // The "version" // of it.
    string version = 1 [(gogoproto.customname) = "V"];
    string old = 2 [deprecated = true, (gogoproto.nullable) = false];
    string both = 3 [(gogoproto.nullable) = false, debug_redact = true];
    string last = 4 [ debug_redact=true ];
}

message VersionResponse {
    reserved 2, 4 to 6;
    reserved "gone";
    string CDI_devices = 1;
}
"""
_NORMALISED = """\
syntax = "proto3";

package runtime.v1;

service Runtime {
    rpc Version(VersionRequest) returns (VersionResponse) {}
}

message VersionRequest {
    string version = 1;
    string old = 2 [deprecated = true];
    string both = 3 [debug_redact = true];
    string last = 4 [debug_redact = true];
}

message VersionResponse {
    reserved 2, 4 to 6;
    reserved "gone";
    string CDI_devices = 1;
}
"""
_EVERY_FORM = """\
syntax = "proto3";

package example.v1;

import "google/protobuf/any.proto";

service Boxes {
    rpc Watch(stream Box) returns (stream Lid) {}

    rpc Old(Box) returns (Lid) {
        option deprecated = true;
    }
}

message Box {
    enum Kind {
        KIND_A = 0;
        KIND_B = 1 [deprecated = true];
    }

    message Inner {
        map<string, Lid> lids = 1;
    }

    reserved 20 to max;
    reserved "gone", "lost";
    Box.Kind kind = 1;
    optional int64 limit = 2;
    repeated sint32 numbers = 3 [packed = false];
    string renamed = 4 [json_name = "other"];

    oneof either {
        Box.Inner inner = 5;
        google.protobuf.Any any = 6;
    }

    map<uint64, bytes> data = 7;
}

message Lid {}

enum Color {
    option allow_alias = true;
    reserved 5 to max;
    COLOR_RED = 0;
    COLOR_ROT = 0;
}
"""


def _descriptor(text: str) -> FileDescriptorProto:
    return protoc.descriptors({"api.proto": text}).file[-1]


@pytest.mark.parametrize("path", sorted((ROOT / "spec/cri").glob("*.proto")), ids=lambda p: p.stem)
def test_importing_a_pinned_cri_again_changes_nothing(path: Path) -> None:
    text = path.read_text()
    assert proto_import.api(path, settings().api) == text
    descriptor = _descriptor(text)
    assert _descriptor(proto_text.file_text(descriptor)) == descriptor


def test_importing_the_pinned_containerd_again_changes_nothing(tmp_path: Path) -> None:
    protos = {
        f"containerd/{path.name}": path.read_text()
        for path in (ROOT / "spec/containerd").glob("*.proto")
    }
    files = protoc.descriptors(protos)
    for file in files.file:  # as the publisher names them
        _rename(file)
    source = tmp_path / "set.binpb"
    source.write_bytes(files.SerializeToString())
    taken = proto_import.clients(ROOT, source)
    assert {name.removeprefix("spec/"): text for name, text in taken.items()} == protos


def _rename(file: FileDescriptorProto) -> None:
    clients = settings().clients
    assert clients is not None
    chosen = {name: s for name, s in clients.files.items() if s.package == file.package}
    name = Path(file.name).stem
    if name in chosen:
        file.name = f"published/{chosen[name].path.removeprefix('.proto') or name + '.proto'}"


def test_a_published_proto_loses_comments_and_foreign_options(tmp_path: Path) -> None:
    source = tmp_path / "api.proto"
    source.write_text(_PUBLISHED)
    assert proto_import.api(source, settings().api) == _NORMALISED


def test_every_form_of_the_language_survives() -> None:
    descriptor = _descriptor(_EVERY_FORM)
    text = proto_text.file_text(descriptor)
    assert text == _EVERY_FORM
    assert _descriptor(text) == descriptor


def test_a_fault_in_a_published_proto_has_its_line(tmp_path: Path) -> None:
    source = tmp_path / "api.proto"
    source.write_text(
        "// one\n/* two\nthree */\nsyntax = 'proto3';\nmessage A { Missing m = 1; }\n"
    )
    with pytest.raises(SpecError) as raised:
        proto_import.api(source, settings().api)
    assert str(raised.value) == f'{source}:5:13: "Missing" is not defined.'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xff", "is not a descriptor set"),
        (b"", "holds 0 files with services"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_not_an_api_is_refused(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    source = tmp_path / "set.binpb"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        proto_import.api(source, settings().api)


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.proto", "folder.proto"])
def test_what_may_be_without_end_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.proto")
    (tmp_path / "folder.proto").mkdir()
    with pytest.raises(SpecError, match="is no file"):
        proto_import.api(tmp_path / name, settings().api)


def test_a_set_without_containerd_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "set.binpb"
    source.write_bytes(FileDescriptorSet(file=[_descriptor(_NORMALISED)]).SerializeToString())
    with pytest.raises(SpecError, match="none of the containerd services"):
        proto_import.clients(ROOT, source)


def test_the_command_writes_below_its_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(tmp_path)
    source = tmp_path / "api.proto"
    source.write_text(_PUBLISHED)
    assert main(["--root", str(tmp_path), "import", str(source), "--as", "1.99"]) == 0
    assert (tmp_path / "spec/cri/1.99.proto").read_text() == _NORMALISED
    assert capsys.readouterr().out == (
        "spec/cri/1.99.proto\nspec/cri/origins.json\nspec/cri/current\n"
    )
    assert (tmp_path / "spec/cri/current").read_text() == "1.99\n", "the first one is generated"
    origin = {"file": "api.proto", "sha256": hashlib.sha256(_PUBLISHED.encode()).hexdigest()}
    assert json.loads((tmp_path / "spec/cri/origins.json").read_text()) == {"1.99": origin}
    assert main(["--root", str(tmp_path), "import", "missing.binpb", "--as", "1.99"]) == 1
    assert "missing.binpb: cannot be read" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without any pinned version, and a published proto beside it; commands run in a
    folder below the project."""
    root = tmp_path / "root"
    begin(root)
    (root / "deep/er").mkdir(parents=True)
    (tmp_path / "api.proto").write_text(_PUBLISHED)
    monkeypatch.chdir(root / "deep/er")
    return tmp_path


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_root_is_found_from_a_folder_below_it(folder: Path) -> None:
    assert main(["import", "../../../api.proto", "--as", "1.99"]) == 0
    assert (folder / "root/spec/cri/1.99.proto").read_text() == _NORMALISED


@pytest.mark.parametrize(
    "words", [["--root", "", "check"], ["generate", "--out", ""], ["import", "", "--as", "1.99"]]
)
def test_an_empty_path_is_not_the_current_folder(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(folder)
    with pytest.raises(SystemExit):
        main(words)
    assert "is empty; give a path" in capsys.readouterr().err
    assert _files(folder) == before


def test_outside_a_project_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = _files(folder)
    for root, says in (
        ([], "has spec/project.yaml"),
        (["--root", "root/deep"], "--root root/deep: has no spec/project.yaml"),
    ):
        assert main([*root, "import", "api.proto", "--as", "1.99"]) == 1
        assert says in capsys.readouterr().err
    assert _files(folder) == before


@pytest.mark.parametrize(
    "version", ["v1.37", "", "1", "1.37.1", "1.037", "1.37\n", "../../x", "1.²", "current"]
)
def test_a_word_that_is_no_version_is_refused(
    folder: Path, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _files(folder)
    assert main(["import", str(folder / "api.proto"), "--as", version]) == 1
    assert capsys.readouterr().err == (
        f"--as {version!r}: is not a version\n" "    hint: give major and minor, as in --as 1.36\n"
    )
    assert _files(folder) == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("runtime.v1;", "runtime.v2;", "api.proto: is of package runtime.v2, not runtime.v1"),
        ("package runtime.v1;", "", "api.proto: is of package (none), not runtime.v1"),
        ("'proto3'", "'proto2'", "api.proto:"),
        ("service Runtime {", "service Ru\xffntime {", "api.proto:12:11: is not UTF-8: byte 0xff"),
    ],
)
def test_a_proto_that_is_no_cri_is_refused(
    folder: Path, old: str, new: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder / "api.proto"
    source.write_bytes(_PUBLISHED.replace(old, new).encode("latin-1"))
    before = _files(folder)
    assert main(["import", str(source), "--as", "1.99"]) == 1
    assert says in capsys.readouterr().err
    assert _files(folder) == before


def test_a_proto2_set_is_refused(folder: Path) -> None:
    descriptor = _descriptor(_NORMALISED)
    descriptor.syntax = ""
    source = folder / "set.binpb"
    source.write_bytes(FileDescriptorSet(file=[descriptor]).SerializeToString())
    with pytest.raises(SpecError, match="is written in proto2; a CRI definition is proto3"):
        proto_import.api(source, settings().api)


def test_a_pinned_version_is_replaced_only_by_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import", str(folder / "api.proto"), "--as", "1.99"]
    pinned = folder / "root/spec/cri/1.99.proto"
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0, "the same content"
    assert capsys.readouterr().out == ""
    pinned.write_text(_NORMALISED.replace("string old = 2", "string older = 2"))
    before = pinned.read_text()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("spec/cri/1.99.proto: is pinned, and ")
    assert "or replace 1.99 with --force" in said
    assert pinned.read_text() == before
    assert main([*command, "--force"]) == 0
    assert pinned.read_text() == _NORMALISED


def test_a_file_that_cannot_be_written_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "root/spec/cri/1.99.proto").mkdir()
    assert main(["import", str(folder / "api.proto"), "--as", "1.99", "--force"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("spec/cri/1.99.proto: cannot be written: Is a directory\n")
