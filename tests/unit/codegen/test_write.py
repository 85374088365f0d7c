"""A folder is updated to a required set of files, compared both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen import write
from codegen.errors import SpecError


def _files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _lay_out(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("present", "wanted", "verbs"),
    [
        ({"a.py": "1\n"}, {"a.py": "1\n"}, {}),  # control
        ({}, {"a.py": "1\n", "b/c.py": "2\n"}, {"a.py": "add", "b/c.py": "add"}),
        ({"a.py": "edited by hand\n"}, {"a.py": "1\n"}, {"a.py": "change"}),
        ({"a.py": "1\n", "b/old.py": "2\n"}, {"a.py": "1\n"}, {"b/old.py": "delete"}),
        ({"a.py": "1"}, {"a.py": "1\n"}, {"a.py": "change"}),
        ({"a.py": "1\n2\n"}, {"a.py": "1\n"}, {"a.py": "change"}),
    ],
)
def test_differences_are_recorded_and_then_fixed(
    tmp_path: Path, present: dict[str, str], wanted: dict[str, str], verbs: dict[str, str]
) -> None:
    _lay_out(tmp_path, present)
    recorded = write.changes(tmp_path, wanted)
    assert {change.path: change.verb for change in recorded} == verbs
    assert _files(tmp_path) == present, "recording must not write"
    write.apply(tmp_path, recorded)
    assert _files(tmp_path) == wanted
    assert write.changes(tmp_path, wanted) == []


def test_unchanged_files_are_not_touched(tmp_path: Path) -> None:
    _lay_out(tmp_path, {"same.py": "1\n", "other.py": "1\n"})
    before = (tmp_path / "same.py").stat()
    write.apply(tmp_path, write.changes(tmp_path, {"same.py": "1\n", "other.py": "2\n"}))
    after = (tmp_path / "same.py").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_an_emptied_folder_is_deleted_with_its_bytecode(tmp_path: Path) -> None:
    _lay_out(tmp_path, {"b/old.py": "1\n", "b/__pycache__/old.pyc": "", "a.py": "1\n"})
    write.apply(tmp_path, write.changes(tmp_path, {"a.py": "1\n"}))
    assert [path.name for path in tmp_path.iterdir()] == ["a.py"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _lay_out(tmp_path, {"a.py": "old\n"})

    def fail(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(SpecError, match=r"/a\.py: cannot be written: no space left"):
        write.apply(tmp_path, write.changes(tmp_path, {"a.py": "new\n"}))
    assert _files(tmp_path) == {"a.py": "old\n"}


def test_a_diff_names_the_missing_side() -> None:
    assert write.Change("a.py", None, "1\n").diff().startswith("--- /dev/null\n+++ b/a.py\n")
    assert write.Change("a.py", "1\n", None).diff().startswith("--- a/a.py\n+++ /dev/null\n")
    assert "-1\n+2\n" in write.Change("a.py", "1\n", "2\n").diff()


def test_links_are_replaced_and_never_followed(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    _lay_out(tmp_path, {"made/kept.py": "1\n", "other.py": "2\n", "above/x.py": "3\n"})
    (folder / "a.py").symlink_to("../other.py")
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "up").symlink_to("..")
    found = write.changes(folder, {"kept.py": "1\n", "a.py": "4\n"})
    assert [(c.path, c.verb) for c in found] == [
        ("a.py", "change"),
        ("loop.py", "delete"),
        ("up", "delete"),
    ]
    write.apply(folder, found)
    assert _files(tmp_path) == {
        "made/kept.py": "1\n",
        "made/a.py": "4\n",
        "other.py": "2\n",
        "above/x.py": "3\n",
    }
