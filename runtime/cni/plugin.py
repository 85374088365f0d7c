"""One call of one CNI plugin: an executable that reads its config and answers JSON.

A call costs a process, and every pod costs several, so it is made as cheap as the kernel allows:
``posix_spawn`` (a vfork: no page table of this process is copied, however big it is), no pipes and
no thread (input and output are memory files, the end of the process is an event of its pidfd).
It also cannot hang on a grandchild that keeps an output open: only the plugin's own end counts.
A plugin runs in a process group of its own, which is killed when the call's time is over.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

ENVIRONMENT: Final = ("PATH", "HOME", "TZ")
"""What a plugin gets of the server's own environment: where to find iptables, and little else."""

_OUTPUT_BYTES: Final = 16 << 20
_BUSY_TRIES: Final = 25
_BUSY_SECONDS: Final = 0.2


class PluginError(Exception):
    """A plugin that could not be run or said no."""

    def __init__(
        self, plugin: str, command: str, msg: str, code: int = 0, details: str = ""
    ) -> None:
        self.msg = msg
        self.code = code
        """The CNI error code; 0 when the plugin gave none."""
        said = "; ".join(filter(None, (msg, details))) + (f" (code {code})" if code else "")
        super().__init__(f"CNI plugin {plugin} failed at {command}: {said}")


def find(kind: str, directories: Sequence[str]) -> str | None:
    """Return the path of a plugin's executable, or None."""
    for directory in directories:
        path = os.path.join(directory, kind)
        if os.path.isfile(path):
            return path
    return None


async def call(
    kind: str,
    directories: Sequence[str],
    command: str,
    config: Mapping[str, Any],
    arguments: Mapping[str, str],
    seconds: float,
) -> bytes:
    """Run a plugin and return what it wrote; raises PluginError.

    ``arguments`` are the CNI_* variables beside CNI_COMMAND and CNI_PATH.
    """
    executable = find(kind, directories)
    if executable is None:
        raise PluginError(
            kind, command, f"it is in none of {', '.join(directories)}; install it there"
        )
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environment |= {"CNI_COMMAND": command, "CNI_PATH": os.pathsep.join(directories), **arguments}
    text = json.dumps(config, separators=(",", ":")).encode()
    try:
        async with asyncio.timeout(seconds):
            code, answer, complaint = await _run(executable, text, environment)
    except TimeoutError:
        raise PluginError(kind, command, f"killed after {seconds:g} s without an end") from None
    except OSError as error:
        raise PluginError(kind, command, f"cannot run {executable}: {error.strerror}") from None
    if code != 0:
        raise _failure(kind, command, code, answer, complaint)
    if complaint:
        log.info("CNI plugin", plugin=kind, command=command, stderr=_readable(complaint))
    return answer


def _failure(kind: str, command: str, code: int, answer: bytes, complaint: bytes) -> PluginError:
    """Return what a failed plugin said: an error object, or else whatever it wrote."""
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    try:
        said = json.loads(answer)
        details = str(said.get("details", ""))
        return PluginError(kind, command, str(said["msg"]), int(said["code"]), details)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = _readable(complaint or answer) or "it gave no reason"
        return PluginError(kind, command, f"{said} ({ending})")


def _readable(output: bytes) -> str:
    return output.decode("utf-8", "replace").strip()[-2000:]


async def _run(
    executable: str, text: bytes, environment: Mapping[str, str]
) -> tuple[int, bytes, bytes]:
    """Return the exit code (or minus the signal), the standard output and the standard error."""
    files = [os.memfd_create(f"cni-{stream}") for stream in ("stdin", "stdout", "stderr")]
    try:
        os.write(files[0], text)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = await _spawn(executable, files, environment)
        code = await _ended(pid)
        return code, _content(files[1]), _content(files[2])
    finally:
        for file in files:
            os.close(file)


async def _spawn(executable: str, files: Sequence[int], environment: Mapping[str, str]) -> int:
    """Start a process; one whose file is being replaced right now is tried again for 5 s."""
    for attempt in range(_BUSY_TRIES + 1):
        try:
            return os.posix_spawn(  # noqa: ASYNC221 (returns when the child has exec'd: 0.3 ms)
                executable,
                [executable],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(files)],
                setpgroup=0,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE,),  # which Python ignores, and an exec would hand on
            )
        except OSError as error:
            if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES:
                raise
        await asyncio.sleep(_BUSY_SECONDS)
    raise AssertionError("the last attempt returns or raises")


async def _ended(pid: int) -> int:
    """Return the exit code when the process has ended; kills its group when cancelled."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    pidfd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if not ended.done():
            ended.set_result(code)

    loop.add_reader(pidfd, reap)
    try:
        return await ended
    except asyncio.CancelledError:
        os.killpg(pid, signal.SIGKILL)  # it is reaped by the event of its end
        raise


def _content(file: int) -> bytes:
    return os.pread(file, min(os.fstat(file).st_size, _OUTPUT_BYTES), 0)
