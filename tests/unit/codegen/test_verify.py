"""A successful check is reused only for the same bytes; generated modules are imported."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codegen import cache, generate, protoc, render, verify
from codegen.__main__ import main
from codegen.errors import Fault, Place
from tests.unit.codegen.project import ROOT, project


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose files may be changed, checked successfully with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "root"
    for folder in ("spec", "generated", "runtime"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    (root / "tests/unit").mkdir(parents=True)
    verify.remember(root)
    return root


def _appended(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes() + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        _appended("spec/mapping/mount.yaml"),
        _appended("spec/cri/1.30.proto"),
        _appended("runtime/transforms/security.py"),
        _appended("generated/oci/container_config.py"),
        _appended("generated/MANIFEST.json"),
        lambda root: (root / "generated/new.py").write_text(""),
        lambda root: (root / "tests/unit/new.py").write_text(""),
        lambda root: (root / "generated/lifecycle.py").unlink(),
        lambda root: (root / "spec/mapping/mount.yaml").rename(root / "spec/mapping/n.yaml"),
    ],
    ids=range(9),
)
def test_any_change_is_seen(checkout: Path, change: Callable[[Path], object]) -> None:
    assert verify.known_good(checkout)
    change(checkout)
    assert not verify.known_good(checkout)


def test_a_repeated_check_generates_nothing(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "load_project", None)
    assert main(["--root", str(checkout), "check"]) == 0


def test_a_generated_file_that_was_edited_is_found(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkout / "generated/oci/container_config.py"
    path.write_text(path.read_text().replace("src.tty", "not src.tty"))
    assert main(["--root", str(checkout), "check"]) == 1
    said = capsys.readouterr()
    assert "+    if src.tty:" in said.out
    assert "oci/container_config.py (change)" in said.err


def test_what_cannot_be_imported_is_named_once_with_its_line(checkout: Path) -> None:
    assert verify.import_faults(checkout) == []
    path = checkout / "runtime/transforms/devices.py"
    text = path.read_text().replace("from generated.oci import types", "from generated import oli")
    path.write_text(text)
    line = text[: text.index("import oli")].count("\n") + 1
    assert verify.import_faults(checkout) == [
        Fault(
            Place("runtime/transforms/devices.py", line, 1),
            "cannot be imported: ImportError: cannot import name 'oli' from 'generated' "
            "(generated/__init__.py)",
        )
    ]
    assert main(["--root", str(checkout), "check"]) == 1
    assert not verify.known_good(checkout)


def test_a_module_of_the_server_that_nothing_generated_imports_is_imported_too(
    checkout: Path,
) -> None:
    path = checkout / "runtime/server/app.py"
    path.write_text(path.read_text() + "\nNothing.at_all\n")
    [fault] = verify.import_faults(checkout)
    line = path.read_text().count("\n")
    assert fault.place == Place("runtime/server/app.py", line, 1)
    assert fault.message == "cannot be imported: NameError: name 'Nothing' is not defined"


def test_a_second_run_needs_no_protoc(monkeypatch: pytest.MonkeyPatch) -> None:
    before = generate.outputs(project())
    monkeypatch.setattr(protoc, "_run", None)
    assert generate.outputs(generate.load_project(ROOT)) == before


def test_a_damaged_cache_entry_is_recomputed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.made_once("kind", (b"in",), lambda: b"out") == b"out"
    assert cache.made_once("kind", (b"in",), lambda: b"other") == b"out"
    [entry] = (tmp_path / "cri-codegen").iterdir()
    entry.write_bytes(entry.read_bytes()[:-1] + b"x")
    assert cache.made_once("kind", (b"in",), lambda: b"out") == b"out"
    assert cache.made_once("kind", (b"i", b"n"), lambda: b"else") == b"else"
    other = tmp_path / "cri-codegen" / cache.digest(b"kind", b"more")
    shutil.copy(entry, other)
    assert cache.get(other.name) is None, "an entry under another's name"


def test_the_cache_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_MOST", 3)
    folder = tmp_path / "cri-codegen"
    folder.mkdir()
    now = time.time()

    def left(name: str, age: float) -> None:
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (now - age, now - age))

    keys = [cache.digest(bytes([number])) for number in range(6)]
    for number, key in enumerate(keys[:5]):
        left(key, 60 * number)
    left(keys[5], 31 * 24 * 3600)
    left("tmpabc", 7200)  # by killed runs
    left("partial-killed", 7200)
    left("partial-running", 5)
    cache.made_once("kind", (b"in",), lambda: b"out")
    kept = {*keys[:3], "partial-running", cache.digest(b"kind", b"in")}
    assert {path.name for path in folder.iterdir()} == kept


def test_two_runs_may_prune_the_cache_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_MOST", 0)
    folder = tmp_path / "cri-codegen"
    folder.mkdir()
    for number in range(4):
        (folder / cache.digest(bytes([number]))).write_bytes(b"")
    unlink = os.unlink

    def after_another_run(path: str) -> None:
        unlink(path)
        unlink(path)  # raises FileNotFoundError, as if the first was the other run's

    monkeypatch.setattr(os, "unlink", after_another_run)
    assert cache.made_once("kind", (b"in",), lambda: b"out") == b"out"
    assert [path.name for path in folder.iterdir()] == [cache.digest(b"kind", b"in")]


def test_without_a_cache_everything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert render.formatted(["x  =  1\n"]) == ["x = 1\n"]
    assert cache.made_once("kind", (b"in",), lambda: b"out") == b"out"
    assert cache.made_once("kind", (b"in",), lambda: b"other") == b"other"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("raise KeyboardInterrupt", "cannot be imported: KeyboardInterrupt"),
        ("import os; os._exit(0)", "ends the process when it is imported"),
    ],
)
def test_a_module_that_ends_the_process_is_named(checkout: Path, added: str, said: str) -> None:
    path = checkout / "runtime/errors.py"
    path.write_text(f"{path.read_text()}\n{added}\n")
    (fault,) = verify.import_faults(checkout)
    assert fault.message == said
    assert not fault.place.file.startswith("/")


def test_what_a_module_prints_is_no_fault(checkout: Path) -> None:
    path = checkout / "runtime/errors.py"
    path.write_text(path.read_text() + "\nprint('[1]')\n")
    assert verify.import_faults(checkout) == []


def test_links_that_lead_upwards_are_not_followed(checkout: Path) -> None:
    (checkout / "runtime/up").symlink_to("..")
    assert verify.import_faults(checkout) == []


@pytest.mark.parametrize("folder", ["spec/mapping", "generated"])
def test_a_new_link_to_a_folder_is_seen(checkout: Path, folder: str) -> None:
    assert verify.known_good(checkout)
    (checkout / folder / "up").symlink_to("..")
    assert not verify.known_good(checkout)


def test_a_file_that_cannot_be_read_is_not_good(checkout: Path) -> None:
    (checkout / "spec/mapping/loop.yaml").symlink_to("loop.yaml")
    assert not verify.known_good(checkout)
