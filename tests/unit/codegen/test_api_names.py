"""Hand-written code names only what the current CRI defines."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from codegen import api_names, generate, proto_api
from codegen.__main__ import main
from codegen.errors import Problems
from tests.unit.codegen.project import ROOT, api, begin, copy_of_spec, settings

_OLD = """\
syntax = "proto3";
package runtime.v1;
service RuntimeService { rpc Version(Ask) returns (Answer) {} }
service Gone { rpc Old(Ask) returns (Answer) {} }
message Ask { map<string, string> labels = 1; string image_ref = 2; }
message Answer {
    enum Kind { Plain = 0; Fancy = 1; }
    message Inner {}
    Kind kind = 1;
}
message Dropped {}
enum State { CREATED = 0; RUNNING = 1; EXITED = 2; }
enum Lost { NOTHING = 0; }
"""
_NEW = """\
syntax = "proto3";
package runtime.v1;
service RuntimeService { rpc Version(Ask) returns (Answer) {} }
message Ask { map<string, string> labels = 1; string ref = 2; }
message Answer {
    enum Kind { Plain = 0; Ornate = 1; }
    Kind kind = 1;
}
enum State { CREATED = 0; STATE_RUNNING = 1; }
"""
_FINE = """\
from generated.cri import api_pb2, api_pb2_grpc
from generated.cri.api_pb2 import Ask, CREATED
import generated.cri.api_pb2 as other
import json as api

def fine(x: api_pb2.Answer.Kind.ValueType) -> api_pb2.Ask.LabelsEntry:
    api.DROPPED, x.Dropped, json.api_pb2.Dropped
    api_pb2_grpc.RuntimeServiceStub, api_pb2_grpc.add_RuntimeServiceServicer_to_server
    api_pb2.Answer.Plain, api_pb2.Answer.Kind.Ornate, api_pb2.STATE_RUNNING
    api_pb2.State.Value("STATE_RUNNING"), api_pb2.State.Name(0), api_pb2.State.values()
    api_pb2.DESCRIPTOR.services_by_name, api_pb2.Ask.LABELS_FIELD_NUMBER, api_pb2.__name__
    return Ask.FromString(b""), Ask.DESCRIPTOR, other.State.DESCRIPTOR, CREATED
"""
_LACKING = """\
from generated.cri import api_pb2, api_pb2_grpc
from generated.cri.api_pb2 import Ask, Dropped
State = api_pb2.State

def lacking():
    from generated.cri import api_pb2 as pb
    State.RUNNING
    pb.State.Value("RUNNING")
    return [
        pb
        .RUNNING,
        api_pb2.Answer.Fancy, api_pb2.Answer.Kind.Fancy,
    ]
    api_pb2_grpc.GoneStub
    api_pb2.Lost.NOTHING
    api_pb2.EXITED
    Ask.IMAGE_REF_FIELD_NUMBER
    api_pb2.Ansver
    api_pb2.Answer.Inner
"""
_RUNNING = "renamed: the value 1 of State is now STATE_RUNNING"
_ONCE = "CRI 1.0 has it; see cri-codegen diff 1.0 1.1"
_FANCY = "renamed: the value 1 of Answer.Kind is now Ornate"


def _checked(root: Path) -> list[str]:
    begin(root)
    (root / "spec/cri/current").write_text("1.1\n")
    (root / "spec/cri/1.0.proto").write_text(_OLD)
    (root / "spec/cri/1.1.proto").write_text(_NEW)
    problems = Problems()
    api = proto_api.load(settings().api, proto_api.pinned(root), "1.1", problems)
    api_names.check(root, api, problems)
    return [str(fault).replace("\n    hint:", " →") for fault in problems]


def test_every_name_that_is_lacking_is_told_with_its_line(tmp_path: Path) -> None:
    for file, text in {"runtime/a.py": _FINE, "tests/deep/b.py": _LACKING}.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    at = "tests/deep/b.py"
    assert _checked(tmp_path) == [
        f"{at}:2:40: api_pb2 of CRI 1.1 has no Dropped → {_ONCE}",
        f"{at}:7:11: api_pb2.State of CRI 1.1 has no RUNNING → {_RUNNING}",
        f"{at}:8:20: api_pb2.State of CRI 1.1 has no RUNNING → {_RUNNING}",
        f"{at}:11:10: api_pb2 of CRI 1.1 has no RUNNING → {_RUNNING}",
        f"{at}:12:24: api_pb2.Answer of CRI 1.1 has no Fancy → {_FANCY}",
        f"{at}:12:51: api_pb2.Answer.Kind of CRI 1.1 has no Fancy → {_FANCY}",
        f"{at}:14:18: api_pb2_grpc of CRI 1.1 has no GoneStub → {_ONCE}",
        f"{at}:15:13: api_pb2 of CRI 1.1 has no Lost → {_ONCE}",
        f"{at}:16:13: api_pb2 of CRI 1.1 has no EXITED → {_ONCE}",
        f"{at}:17:9: api_pb2.Ask of CRI 1.1 has no IMAGE_REF_FIELD_NUMBER → {_ONCE}",
        f"{at}:18:13: api_pb2 of CRI 1.1 has no Ansver → did you mean Answer?",
        f"{at}:19:20: api_pb2.Answer of CRI 1.1 has no Inner → {_ONCE}",
    ]


def test_a_file_that_is_not_python_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/a.py").write_text("def api_pb2(:\n")
    (tmp_path / "tests/b.py").write_text("from generated.cri.api_pb2 import Dropped\n")
    wanted = [
        "tests/a.py:1:13: is not Python: invalid syntax",
        f"tests/b.py:1:35: api_pb2 of CRI 1.1 has no Dropped → {_ONCE}",
    ]
    assert sorted(_checked(tmp_path)) == wanted
    shutil.rmtree(tmp_path / "spec")
    assert sorted(_checked(tmp_path)) == wanted, "and is not remembered as sound"


def test_all_names_of_the_project_are_seen() -> None:
    """As many as a search of the text finds, in code that no string or comment surrounds."""
    problems = Problems()
    found = [s for s in api_names.spelled(ROOT, problems) if s.owner == "api_pb2"]
    assert not problems
    for file in {s.file for s in found if s.file.startswith("runtime/")}:
        lines = (ROOT / file).read_text().splitlines()
        searched = {
            (number, name)
            for number, line in enumerate(lines, 1)
            for name in re.findall(r"(?<![\w`])api_pb2\.([A-Z]\w*)", line)
        }
        assert searched <= {(s.line, s.name) for s in found if s.file == file}, file


@pytest.mark.parametrize("command", ["generate", "check"])
def test_a_bump_that_renames_enum_values_fails_before_anything_is_written(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    text = (tmp_path / f"spec/cri/{api().version}.proto").read_text()
    text = re.sub(r"\bPROPAGATION_PRIVATE\b", "MOUNT_PROPAGATION_PRIVATE", text)
    (tmp_path / "spec/cri/9.99.proto").write_text(text)
    (tmp_path / "spec/cri/current").write_text("9.99\n")
    assert main(["--root", str(tmp_path), command]) == 1
    said = capsys.readouterr().err
    pattern = r"^runtime/\S+:\d+:\d+: api_pb2 of CRI 9.99 has no PROPAGATION_PRIVATE$"
    assert re.search(pattern, said, re.M)
    assert "renamed: the value 0 of MountPropagation is now MOUNT_PROPAGATION_PRIVATE" in said
    assert not (tmp_path / "generated").exists()


def test_the_project_itself_names_nothing_that_is_lacking() -> None:
    problems = Problems()
    api_names.check(ROOT, generate.read_api(ROOT), problems)
    assert list(problems) == []


def test_a_file_is_passed_over_only_if_every_name_in_it_exists() -> None:
    """Whichever name is lacking, the files that spell it are looked at."""
    found = api_names.spelled(ROOT, Problems())
    texts = {one.file: (ROOT / one.file).read_text() for one in found}
    defined = api_names._Defined(api())
    passed = {file for file, text in texts.items() if defined.has_all(text)}
    assert len(passed) > len(texts) / 2
    of_file: dict[tuple[str, str], set[str]] = {}
    for one in found:
        of_file.setdefault((one.owner, one.name), set()).add(one.file)
    for (owner, name), files in of_file.items():
        if name in defined.names.get(owner, ()) and files & passed:
            defined.names[owner].discard(name)
            assert [file for file in files if defined.has_all(texts[file])] == [], (owner, name)
            defined.names[owner].add(name)


@pytest.mark.parametrize(
    "text",
    [
        "from generated.cri.api_pb2 import Lacking\n",
        "from generated.cri import api_pb2 as api\napi.Lacking\n",
        "import generated.cri.api_pb2 as api\napi.Lacking\n",
        "State = api_pb2.ContainerState\nState.LACKING\n",
        "State = (\n    api_pb2.ContainerState\n)\nState.LACKING\n",
        "State = api_pb2.ContainerState  # the states\nState.LACKING\n",
        "api_pb2.Lacking\n",
        "api_pb2 . ContainerState . LACKING\n",
        "api_pb2.\\\n  Lacking\n",
        'api_pb2.ContainerState.Value("LACKING")\n',
        "x(\n    api_pb2\n    .Lacking\n)\n",
    ],
)
def test_every_form_of_a_lacking_name_is_looked_at(text: str) -> None:
    assert not api_names._Defined(api()).has_all(text)
