"""Comments of a published API, as they stand in the stubs that a person decides about."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from codegen import load, undecided, upstream
from codegen.__main__ import main
from tests.unit.codegen.project import ROOT, api, copy_of_spec

_ODD = 'it\'s "quoted": {a: b} [x] - # %s \\d é ☃ \x07\u2028 *a &b !c @d `e`'
_PROTO = f"""
    // The OOM policy; {_ODD}
    //
    // A second paragraph.
    string oom_policy = 98; // Behind it.
    repeated string silent = 99;
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An api.proto with comments and options of others, beside a project without it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy_of_spec(tmp_path)
    text = (tmp_path / f"spec/cri/{api().version}.proto").read_text()
    for before, after in (
        ("message ContainerConfig {", f"message ContainerConfig {{{_PROTO}"),
        (
            "service RuntimeService {",
            "service RuntimeService {\n    /* Freezes\n     * a pod. */\n"
            "    rpc Freeze(VersionRequest) returns (VersionResponse) {}",
        ),
        (
            "package runtime.v1;",
            'package runtime.v1;\nimport "github.com/gogo/gogo.proto";\n'
            "option (gogoproto.marshaler_all) = true; // {",
        ),
    ):
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "api.proto").write_text(text)
    return tmp_path


def _bump(root: Path) -> None:
    words = ["--root", str(root)]
    assert main([*words, "import", str(root / "api.proto"), "--as", "9.99"]) == 0
    (root / "spec/cri/current").write_text("9.99\n")
    assert main([*words, "stubs"]) == 0


def test_stubs_have_the_comments_of_the_published_file(published: Path) -> None:
    _bump(published)
    text = (published / "spec/mapping/container_config.yaml").read_text()
    entry = text[text.index("  oom_policy:\n") : text.index("\ntargets:")]
    said = " ".join(line.strip(" #") for line in entry.splitlines() if line.startswith("    #"))
    odd = "".join(c if c.isprintable() else " " for c in _ODD)
    assert "".join(said.split()) == "".join(
        f"The OOM policy; {odd} A second paragraph. Behind it.".split()
    )
    assert all(len(line) <= 100 for line in entry.splitlines())
    assert entry[entry.index("  silent:") :].startswith("  silent:\n    unmapped: undecided\n")
    rpcs = (published / "spec/rpc.yaml").read_text()
    assert rpcs.partition("\nFreeze:\n")[2].startswith("  # Freezes\n  # a pod.\n  unserved:")
    for name in ("spec/rpc.yaml", "spec/mapping/container_config.yaml"):
        load.yaml_file(published, name)


def test_diff_shows_the_comments_of_what_is_new(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bump(published)
    capsys.readouterr()
    asked = ["--root", str(published), "diff", api().version, "9.99"]
    assert main(asked) == 0
    said = capsys.readouterr().out
    odd = _ODD.replace(" \x07\u2028 ", "\n  > ")
    assert (
        "- **field-gained** `ContainerConfig.oom_policy`: string = 98\n"
        f"  > The OOM policy; {odd}\n  >\n  > A second paragraph.\n  > Behind it.\n"
        "- **field-gained** `ContainerConfig.silent`: repeated string = 99\n"
    ) in said
    assert main([*asked, "--json"]) == 0
    changes = {one["subject"]: one for one in json.loads(capsys.readouterr().out)["changes"]}
    assert changes["RuntimeService.Freeze"]["comment"] == "Freezes\na pod."
    assert "comment" not in changes["ContainerConfig.silent"]


def test_the_pinned_file_and_its_origin_are_without_comments(published: Path) -> None:
    _bump(published)
    assert "//" not in (published / "spec/cri/9.99.proto").read_text()
    origin = json.loads((published / "spec/cri/origins.json").read_text())["9.99"]
    digest = hashlib.sha256((published / "api.proto").read_bytes()).hexdigest()
    assert origin == {"file": "api.proto", "sha256": digest}


def test_without_kept_comments_there_are_stubs_without_them(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (published / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(published / "file"))
    _bump(published)
    text = (published / "spec/mapping/container_config.yaml").read_text()
    assert "  oom_policy:\n    unmapped: undecided\n" in text


def test_stubs_say_when_there_is_nothing_to_add(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--root", str(published), "stubs"])  # the JSON Schemas for editors
    assert "every field" not in capsys.readouterr().err
    assert main(["--root", str(published), "stubs"]) == 0
    assert capsys.readouterr().err == "every field and RPC has an entry\n"


@pytest.mark.parametrize("comment", [None, "", "\n \n"])
def test_no_comment_is_no_line(comment: str | None) -> None:
    assert undecided._as_yaml(comment, "  ").strip("# \n") == ""


def test_the_pinned_versions_have_no_comments_to_keep() -> None:
    assert upstream.comments(upstream._described(ROOT / "spec/cri/1.36.proto")) == {}
