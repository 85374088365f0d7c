"""What the generator does when it cannot write, is killed, or runs twice at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen import write
from codegen.__main__ import main
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, copy_of_spec


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "generated"
    folder.mkdir()
    (folder / "a.py").write_text("old")
    (folder / ".a.py.x1y2z3").write_text("half")
    (folder / ".b.py.x1y2z3").write_text("half")
    wanted = {"a.py": "new", "b.py": "new"}
    write.apply(folder, write.changes(folder, wanted))
    assert {p.name: p.read_text() for p in folder.iterdir()} == wanted
    assert write.changes(folder, wanted) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_file_that_cannot_be_written_is_named_and_keeps_its_content(
    tmp_path: Path,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / "spec/decided.yaml"
    text = path.read_text().replace("image: ImageSpec = 2", "image: bytes = 2")
    path.write_text(text)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    assert main(["--root", str(tmp_path), "decide", "ContainerConfig.image"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"spec/decided.yaml: cannot be written: {os.strerror(code)}\n")
    assert path.read_text() == text
    assert [p.name for p in (tmp_path / "spec").iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_for_temporary_files_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    copy_of_spec(tmp_path)
    proto = tmp_path / "spec/cri/1.36.proto"
    proto.write_text(proto.read_text() + "message New {}\n")
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert main(["--root", str(tmp_path), "check"]) == 1
    assert capsys.readouterr().err == f"check: {os.strerror(errno.ENOSPC)}\n"


def test_two_runs_that_write_wait_for_each_other(tmp_path: Path) -> None:
    holding = (
        "import sys; from pathlib import Path; from codegen import write\n"
        "with write.alone(Path(sys.argv[1]), reading=False): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        handle = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        other.communicate()
        with write.alone(tmp_path, reading=True), write.alone(tmp_path, reading=True):
            pass
        os.close(handle)


def test_a_root_that_does_not_exist_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path / "none"), "check"]) == 1
    assert capsys.readouterr().err.startswith(f"--root {tmp_path}/none: has no spec/project.yaml")
    with pytest.raises(SpecError), write.alone(tmp_path / "none", reading=True):
        pass
