"""The review site as text: whole, small, escaped, and told by the specification alone.

``nox -s site`` tests it in a browser.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import unquote

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import proto_api, proto_diff, protoc
from codegen.__main__ import main, read_all
from codegen.errors import Place, SpecError
from codegen.lifecycle import Event, Lifecycle, Machine, State, Transition
from codegen.named import Named
from codegen.site import facts, folder, lanes, net, requests, targets, write
from codegen.site.excerpts import Files
from codegen.site.facts import Row, Site
from tests.unit.codegen.project import ROOT, copy_of_spec, project, settings


@functools.cache
def site() -> Site:
    whole = project()
    return facts.gather(ROOT, whole.translation, whole.rpcs, whole.lifecycle)


@functools.cache
def files() -> dict[str, str]:
    return write.files(site())


def row(message: str, name: str) -> Row:
    return next(row for row in site().parts[message].rows if row.name == name)


class _Page(HTMLParser):
    """The ids, addresses and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@functools.cache
def pages() -> dict[str, _Page]:
    return {path: _Page(text) for path, text in files().items() if path.endswith(".html")}


def _data(files: Mapping[str, str], name: str) -> dict[str, Any]:
    """The content of a script that only assigns data."""
    found: dict[str, Any] = json.loads(files[name].partition("=")[2].strip().removesuffix(";"))
    return found


def test_every_message_and_rpc_has_a_page_and_every_field_a_row() -> None:
    api = project().translation.api
    for message in api.messages.values():
        assert set(message.fields) <= set(pages()[f"message/{message.name}.html"].ids)
    for service in api.services.values():
        for method in service.methods:
            assert f"rpc/{method}.html" in pages()


def _broken_links(files: Mapping[str, str]) -> list[str]:
    found = _data(files, "index.js")
    made = {f"source:{name}" for name, *_ in found["sources"]}
    made |= {f"function:{name}" for name, *_ in found["functions"]}
    broken = []
    pages = {path: _Page(text) for path, text in files.items() if path.endswith(".html")}
    for path, page in pages.items():
        ids = set(page.ids)
        assert len(ids) == len(
            page.ids
        ), f"{path}: {sorted(i for i in ids if page.ids.count(i) > 1)}"
        for address in page.addresses:
            file, _, fragment = address.partition("#")
            to = normpath(join(dirname(path), unquote(file))) if file else path
            if to not in files:
                broken.append(f"{path}: {address}")
            elif fragment and not fragment.startswith("?"):
                known = set(pages[to].ids) | (made if to == "targets.html" else set())
                if unquote(fragment) not in known:
                    broken.append(f"{path}: {address}")
    return broken


def test_every_link_leads_to_a_row() -> None:
    assert _broken_links(files()) == []


def test_another_specification_has_a_site_too() -> None:
    root = ROOT / "examples/jobs"
    made = write.files(facts.gather(root, *read_all(root)))
    assert _broken_links(made) == []
    page = _Page(made["message/JobConfig.html"])
    assert page.tags.count("pre") > 5
    assert "Overview · jobs" in _Page(made["index.html"]).text
    assert "svg" in _Page(made["lifecycle.html"]).tags


@pytest.mark.parametrize(
    ("why", "entry", "told"),
    [
        ("One line.", "a:\n  why: One line.\n  like: b", "a:\n  why: …\n  like: b"),
        ("Two lines.", "a:\n  why: >\n    Two\n    lines.", "a:\n  why: >…"),
        ("Two lines.", "a:\n  why: >\n    Two\n    lines.\n  like: b", "a:\n  why: >…\n  like: b"),
        ("A: b", 'a:\n  why: "A: b"', 'a:\n  why: "A: b"'),
        ("x", "a: {why: x}", "a: {why: x}"),
    ],
)
def test_a_reason_is_told_once(why: str, entry: str, told: str) -> None:
    found = write.reason(why, entry)
    assert found.entry == told
    assert found.text.split() == why.split()


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert not [
        f"{path}: {address}"
        for path, page in pages().items()
        for address in page.addresses
        if "//" in address
    ]
    assert "url(" not in files()["style.css"]


def test_it_is_smaller_than_a_megabyte_for_the_463_fields_of_one_version() -> None:
    size = sum(len(text.encode()) for text in files().values())
    assert size < 1_000_000 * len(site().rows) / 463


def test_a_row_shows_its_entry_with_its_place_and_what_was_generated() -> None:
    shown = row("LinuxContainerResources", "memory_swap_limit_in_bytes")
    assert shown.excerpt is not None
    written = (ROOT / shown.excerpt.file).read_text().splitlines()
    assert written[shown.excerpt.line - 1].strip() == "memory_swap_limit_in_bytes:"
    assert shown.excerpt.text.startswith("memory_swap_limit_in_bytes:\n  compute: ")
    assert shown.excerpt.text.endswith(
        "like: containerd internal/cri/opts/spec_linux_opts.go, WithResources"
    )
    assert [block.file.split("/")[1] for block in shown.blocks] == ["oci", "statuses", "validators"]
    assert "out.linux.resources.memory.swap = swap" in shown.blocks[0].text
    for block in shown.blocks:
        first = (ROOT / block.file).read_text().splitlines()[block.line - 1]
        assert first.strip() == block.text.splitlines()[0]
    assert [function.name for function in shown.functions] == [
        "resources.swap_limit",
        "resources.swap_limit_of",
    ]
    assert shown.functions[0].source.text.startswith("def swap_limit(")


@pytest.mark.parametrize(
    ("message", "name", "file"),
    [
        ("StopContainerRequest", "timeout", "generated/plans.py"),
        ("PodSandboxConfig", "port_mappings", "generated/cni.py"),
        ("Mount", "container_path", "generated/items/mount.py"),
        ("ContainerFilter", "id", "generated/filters/container_filter.py"),
    ],
)
def test_the_generated_block_is_found_wherever_it_is(message: str, name: str, file: str) -> None:
    assert file in [block.file for block in row(message, name).blocks]


def test_a_plan_value_shows_the_block_of_its_own_plan_only() -> None:
    [block] = row("AttachRequest", "stdin").blocks
    assert "stdin=src.stdin" in block.text
    text = (ROOT / block.file).read_text().splitlines()
    function = next(line for line in reversed(text[: block.line]) if line.startswith("def "))
    assert function == "def plan_attach("


def test_tests_are_found_by_the_function_and_by_the_field() -> None:
    names = [test.name for test in row("LinuxContainerResources", "oom_score_adj").tests]
    assert names
    for test in row("LinuxContainerResources", "oom_score_adj").tests:
        line = (ROOT / test.file).read_text().splitlines()[test.line - 1]
        assert f"def {test.name}(" in line


def test_history_says_when_a_field_came_and_what_happened_to_it() -> None:
    for part in site().parts.values():
        for one in part.fields:
            gained = [version for version, change in one.changes if change.kind == "field-gained"]
            assert gained in ([], [one.since])
    changes = [change for step in site().history.steps for change in step.changes]
    shown = sum(text.count("<li id=") for path, text in files().items() if path == "changes.html")
    assert shown == len(changes)


def test_every_change_has_an_address_of_its_own() -> None:
    changes = [
        Named("rule-dropped", "A.b", "range", ""),
        Named("rule-dropped", "A.b", "required", ""),
        Named("fate-changed", "A.b", "", ""),
        Named("fate-changed", "A.c", "", ""),
    ]
    assert list(write.anchors(changes, "since").values()) == [
        "since:A.b:rule-dropped",
        "since:A.b:rule-dropped:2",
        "since:A.b:fate-changed",
        "since:A.c",
    ]


def test_the_tree_of_targets_answers_who_writes_one() -> None:
    tree = targets.tree(site().links_written)
    node = tree
    for step in targets.steps("linux.resources.memory.swap"):
        node = node.below[step]
    assert [link.field for link in node.links] == [
        "ContainerConfig.linux.resources.memory_swap_limit_in_bytes",
        "UpdateContainerResourcesRequest.linux.memory_swap_limit_in_bytes",
    ]
    paths = {node.path for node in tree.walk() if node.links}
    assert paths == set(site().written)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("hostname", ["hostname"]),
        ("a.b[].c", ["a", ".b", "[]", ".c"]),
        ("annotations[example.org/key]", ["annotations", "[example.org/key]"]),
    ],
)
def test_the_steps_of_a_path(path: str, steps: list[str]) -> None:
    assert targets.steps(path) == steps
    assert "".join(steps) == path


def test_the_drawing_has_every_transition_in_its_place() -> None:
    for machine in project().lifecycle.machines:
        drawn = lanes.drawing(machine)
        at = {column.x: column.name for column in drawn.columns}
        found = {
            (line.event, at[source], at[line.target])
            for line in drawn.lines
            for source in line.sources
        }
        wanted = {(t.event.name, t.source, t.target or lanes.GONE) for t in machine.transitions}
        assert found == wanted
        rows = [line.y for line in drawn.lines]
        assert rows == sorted(set(rows)) and rows[-1] < drawn.height


def _machine(noun: str) -> Machine:
    leave = Event("leave", "It goes.", Place("spec/lifecycle.yaml"))
    return Machine(
        noun=noun,
        enum="JobState",
        states=(State("HERE", "S_HERE", "It is here."),),
        events=(leave,),
        transitions=(Transition("HERE", leave, None, None, None),),
        created="HERE",
        created_emits=(),
        recovered=(),
    )


def test_any_machine_can_be_drawn() -> None:
    drawn = lanes.drawing(_machine("job"))
    assert [column.name for column in drawn.columns] == ["HERE", lanes.GONE]
    assert [line.event for line in drawn.lines] == ["created", "leave"]


_HOSTILE = "</pre><script>alert(1)</script>&\"'"


def _hostile() -> Iterator[tuple[str, str]]:
    """The page of a message whose every text is hostile, and the page of changes."""
    one = row("Mount", "readonly")
    assert one.entry is not None and one.excerpt is not None
    entry = dataclasses.replace(one.entry, why=_HOSTILE, like=_HOSTILE, issue=_HOSTILE)
    excerpt = dataclasses.replace(one.excerpt, text=_HOSTILE, file=_HOSTILE)
    changed = dataclasses.replace(
        one, name=_HOSTILE, entry=entry, excerpt=excerpt, targets=(_HOSTILE,), sources=(_HOSTILE,)
    )
    part = dataclasses.replace(site().parts["Mount"], rows=(changed,))
    named = Named(_HOSTILE, _HOSTILE, _HOSTILE, "")
    bad = dataclasses.replace(
        site(), name=_HOSTILE, parts={"Mount": part}, rpcs={}, services={}, links=(),
        against=(_HOSTILE, (named,)),
    )  # fmt: skip
    made = write.files(bad)
    yield from (
        (path, made[path]) for path in ("message/Mount.html", "changes.html", "fields.html")
    )


def test_texts_of_the_specification_are_only_text() -> None:
    for path, text in _hostile():
        page = _Page(text)
        assert page.tags.count("script") == 1, path
        assert _HOSTILE in page.text, path


def test_generated_blocks_of_another_specification_are_announced() -> None:
    stale = write.files(dataclasses.replace(site(), stale=True))
    assert "cri-codegen generate" in stale["index.html"]
    assert not site().stale
    assert "cri-codegen generate" not in files()["index.html"]


def test_the_command_shows_what_changed_since_a_revision_and_removes_old_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what was gathered already; the next test gathers by the command."""

    def gathered(*_: object) -> Site:
        return dataclasses.replace(site(), against=_[4])  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "gather", gathered)
    out = tmp_path / "site"
    (out / "message").mkdir(parents=True)
    (out / "message/Gone.html").write_text("stale")
    (out / "evidence.js").write_text("of an earlier site")
    (out / "notes.txt").write_text("not of a site")
    assert main(["--root", str(ROOT), "review", "--out", str(out), "--against", "HEAD"]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
        *files(),
        "notes.txt",
    }
    assert "This specification since HEAD" in _Page((out / "changes.html").read_text()).text


def test_a_folder_with_anything_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index.html").write_text("of somebody else")
    (tmp_path / "file").write_text("")
    for out, why in [
        (tmp_path, "holds something other than a review site"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "file/below", "cannot be written: Not a directory"),
    ]:
        with pytest.raises(SpecError) as raised:
            folder.put(out, files())
        assert str(raised.value).startswith(f"{out}: {why}\n    hint: give --out ")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "index.html"]
    assert main(["--root", str(ROOT), "review", "--against", "HEAD"]) == 1
    assert "--out" in capsys.readouterr().err


def test_requests_are_found_by_the_name_or_the_keys_of_a_message(tmp_path: Path) -> None:
    (tmp_path / "tests/corpus").mkdir(parents=True)
    named = {"StopContainerRequest": {"containerId": "a", "timeout": 1, "unknown": 2}}
    called = {"calls": [{"StopContainer": {"timeout": 1}}]}
    told = {"x": {"metadata": {"name": "a"}, "hostname": "b", "log_directory": "c"}}
    (tmp_path / "tests/named.json").write_text(json.dumps(named))
    (tmp_path / "tests/corpus/called.json").write_text(json.dumps(called))
    (tmp_path / "tests/corpus/told.json").write_text(json.dumps(told))
    (tmp_path / "tests/corpus/broken.json").write_text("{")
    (tmp_path / "tests/other.yaml").write_text(json.dumps(called))
    found = requests.read(Files(tmp_path), project().translation.api, project().translation.files)
    assert {key: sorted(names) for key, names in found.items()} == {
        ("", "StopContainer"): ["tests/corpus/called.json"],
        ("StopContainerRequest", "container_id"): ["tests/named.json"],
        ("StopContainerRequest", "timeout"): ["tests/corpus/called.json", "tests/named.json"],
        ("PodSandboxConfig", "metadata"): ["tests/corpus/told.json"],
        ("PodSandboxMetadata", "name"): ["tests/corpus/told.json"],
        ("PodSandboxConfig", "hostname"): ["tests/corpus/told.json"],
        ("PodSandboxConfig", "log_directory"): ["tests/corpus/told.json"],
    }


def test_a_specification_with_faults_can_be_reviewed(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    file = tmp_path / "spec/mapping/mount.yaml"
    file.write_text(file.read_text().replace("  readonly:", "  read_only:", 1))
    (tmp_path / "spec/lifecycle.yaml").write_text("nothing: true\n")
    out = tmp_path / "site"
    assert main(["--root", str(tmp_path), "review", "--out", str(out)]) == 0
    page = _Page((out / "message/Mount.html").read_text())
    assert "It has no entry yet" in page.text
    assert not (out / "lifecycle.html").exists()
    assert "lifecycle.html" not in _Page((out / "index.html").read_text()).addresses


def test_a_lifecycle_needs_no_known_objects() -> None:
    job, task = _machine("job"), _machine("task")
    made = write.files(dataclasses.replace(site(), lifecycle=Lifecycle((job, task))))
    page = _Page(made["lifecycle.html"])
    assert {"job", "task", "job:HERE", "task:leave"} <= set(page.ids)


def test_the_net_changes_of_all_pairs_of_versions_are_those_of_diff() -> None:
    history = site().history
    pinned = proto_api.pinned(ROOT)
    protos = [proto_api.descriptor(settings().api, v, pinned[v]) for v in history.versions]
    for old, new in combinations(range(len(protos)), 2):
        found = [one.change for one in history.net if one.lies_between(old, new)]
        assert set(found) == set(proto_diff.changes(protos[old], protos[new])), (old, new)
        assert len(found) == len(set(found))


def test_a_change_that_no_single_version_made_is_told_too() -> None:
    def proto(kind: str, *more: str) -> FileDescriptorProto:
        fields = "".join(f"{one}; " for one in (f"{kind} a = 1", *more))
        text = f'syntax = "proto3";\npackage p;\nmessage M {{ {fields}}}\n'
        return protoc.descriptors({"p.proto": text}, {}).file[-1]

    protos = [proto("string"), proto("int32"), proto("bool", "bool b = 2"), proto("string")]
    every = net.between_all(protos)
    told = {(one.change.kind, one.change.detail): one.boxes for one in every}
    assert told["field-retyped", "string → bool"] == ((0, 0, 2, 2),)
    assert told["field-gained", "bool = 2"] == ((0, 1, 2, 2),)
    assert not any(one.lies_between(0, 3) for one in every)
