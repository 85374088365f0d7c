"""Image verifiers, as programs of a directory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.config.tables import Duration, ImageVerifierTable
from runtime.errors import SignatureValidationFailed
from runtime.images.manifest import Descriptor
from runtime.images.verifiers import Verifiers
from tests.harness.waiting import PATIENCE, until

TARGET = Descriptor("application/vnd.oci.image.index.v1+json", "sha256:" + "1" * 64, 321)
WriteProgram = Callable[[str, str], None]


@pytest.fixture
def program(tmp_path: Path) -> WriteProgram:
    def write(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


async def verify(tmp_path: Path, *, limit: float = 5, most: int = 10) -> None:
    config = ImageVerifierTable(
        bin_dir=str(tmp_path), max_verifiers=most, per_verifier_timeout=Duration(limit)
    )
    await Verifiers(config).verify("a.example/app:1", TARGET)


async def test_without_a_directory_or_programs_every_image_is_allowed(tmp_path: Path) -> None:
    await verify(tmp_path / "absent")
    await verify(tmp_path)


async def test_a_verifier_is_called_as_containerd_calls_it(
    tmp_path: Path, program: WriteProgram
) -> None:
    # names beginning with a dot are entries as well
    target = tmp_path.parent / f"{tmp_path.name}-asked"
    program("one", f'echo "$@" > {target}; cat >> {target}')
    await verify(tmp_path)
    arguments, _, document = target.read_text().partition("\n")
    assert arguments == (
        f"-name a.example/app:1 -digest {TARGET.digest} "
        "-stdin-media-type application/vnd.oci.descriptor.v1+json"
    )
    assert json.loads(document) == {
        "mediaType": TARGET.media_type,
        "digest": TARGET.digest,
        "size": 321,
    }


async def test_the_first_refusal_ends_it_and_says_why(
    tmp_path: Path, program: WriteProgram
) -> None:
    asked = tmp_path.parent / f"{tmp_path.name}-asked"
    program("1-good", "exit 0")
    program("2-bad", "echo no signature of build@example; echo details >&2; exit 3")
    program("3-never", f"touch {asked}")
    with pytest.raises(SignatureValidationFailed) as error:
        await verify(tmp_path)
    assert error.value.code is grpc.StatusCode.UNKNOWN
    assert str(error.value) == (
        "SignatureValidationFailed: image verifier 2-bad rejected a.example/app:1 with digest "
        f"{TARGET.digest} (exit code 3): no signature of build@example"
    )
    assert not asked.exists()


@pytest.mark.parametrize(
    ("script", "limit", "reason"),
    [
        pytest.param("sleep 600 & wait", 0.3, "did not finish for .* within 0.3 s", id="too slow"),
        pytest.param("kill -9 $$", PATIENCE, r"exit code -9", id="killed"),
    ],
)
async def test_a_verifier_without_an_answer_refuses(
    tmp_path: Path, program: WriteProgram, script: str, limit: float, reason: str
) -> None:
    program("odd", script)
    began = time.monotonic()
    with pytest.raises(SignatureValidationFailed, match=reason):
        await verify(tmp_path, limit=limit)
    assert time.monotonic() - began < PATIENCE / 2


async def test_what_is_no_program_refuses(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a program")
    with pytest.raises(SignatureValidationFailed, match=r"notes\.txt cannot be run: Permission"):
        await verify(tmp_path)


async def test_a_directory_that_cannot_be_read_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SignatureValidationFailed, match="cannot read the image verifiers"):
        await verify(tmp_path / "file")


async def test_much_output_and_unread_input_block_nothing(
    tmp_path: Path, program: WriteProgram
) -> None:
    program("loud", "exec <&-; yes | head -c 1000000; yes | head -c 1000000 >&2; exit 1")
    with pytest.raises(SignatureValidationFailed) as error:
        await verify(tmp_path)
    assert len(str(error.value)) < 40_000


async def test_more_than_the_limit_are_not_asked(tmp_path: Path, program: WriteProgram) -> None:
    program("1", "exit 0")
    program("2", "exit 1")
    await verify(tmp_path, most=1)
    for most in (2, -1):
        with pytest.raises(SignatureValidationFailed):
            await verify(tmp_path, most=most)


async def test_children_of_a_verifier_that_is_too_slow_are_killed(
    tmp_path: Path, program: WriteProgram
) -> None:
    pids = tmp_path.parent / f"{tmp_path.name}-pid"
    program("slow", f"sleep 600 & echo $! > {pids}; wait")
    for limit in (0.5, 5, 50):  # seconds; a busy machine may need more to start the child
        with pytest.raises(SignatureValidationFailed):
            await verify(tmp_path, limit=limit)
        if pids.exists():
            break
    pid = pids.read_text().strip()
    await until(lambda: not _runs(pid))


async def test_a_verifier_whose_time_is_over_before_its_start_has_ended_is_killed(
    tmp_path: Path, program: WriteProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own cleanup would kill the program alone and wait for its child."""
    pids = tmp_path.parent / f"{tmp_path.name}-pid"
    program("slow", f"sleep 600 & echo $! > {pids}; wait")
    start = asyncio.create_subprocess_exec

    async def slow_start(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await start(*command, **options)
        await until(lambda: pids.exists() and pids.read_text().endswith("\n"))
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow_start)
    with pytest.raises(SignatureValidationFailed, match="did not finish"):
        await verify(tmp_path, limit=0.001)
    pid = pids.read_text().strip()
    await until(lambda: not _runs(pid))


def _runs(pid: str) -> bool:
    try:
        return "zombie" not in Path("/proc", pid, "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
