"""One call of one CNI plugin: an executable that reads its config and writes JSON.

Every pod needs several calls, and each starts a process, so a call is as cheap as possible:
``posix_spawn`` (a vfork, which copies no page tables of this process), no pipes and no thread
(input and output are memory files, and a pidfd reports the exit).  A grandchild that keeps an
output open cannot block the call, which ends when the plugin itself exits.  A plugin runs in its
own process group, which is killed after the time limit.
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

_OUTPUT_BYTES: Final = 16 << 20
_WHY_NOT_RUN: Final[Mapping[int, str]] = {
    errno.EACCES: "it is not executable; chmod 755 it, and mount its file system without noexec",
    errno.ENOENT: "its interpreter or dynamic loader is missing; install a plugin for this system",
    errno.ENOEXEC: "it is no program for this processor, or incomplete; install it again",
}
"""What is wrong with a plugin's file, by the error of its start."""

_BUSY_TRIES: Final = 25
_BUSY_SECONDS: Final = 0.2


class PluginError(Exception):
    """A plugin could not be run, or failed."""

    def __init__(
        self,
        plugin: str,
        command: str,
        msg: str,
        code: int = 0,
        details: str = "",
        *,
        missing: bool = False,
    ) -> None:
        self.msg = msg
        self.code = code
        """The CNI error code; 0 when the plugin gave none."""
        self.missing = missing
        """Whether there is no such plugin on the node."""
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
    """Run a plugin and return its output; raises PluginError.

    ``arguments`` are the CNI_* variables other than CNI_COMMAND and CNI_PATH. The plugin also gets
    the server's environment, as with libcni, because it can contain settings of the node's
    administrator for plugins (KUBECONFIG, proxies, endpoints).
    """
    executable = find(kind, directories)
    if executable is None:
        raise PluginError(
            kind,
            command,
            f"it is in none of {', '.join(directories)}; install it there",
            missing=True,
        )
    environment = {
        **os.environ,
        "CNI_COMMAND": command,
        "CNI_PATH": os.pathsep.join(directories),
        **arguments,
    }
    text = json.dumps(config, separators=(",", ":")).encode()
    try:
        async with asyncio.timeout(seconds):
            code, answer, complaint = await _run(executable, text, environment)
    except TimeoutError:
        raise PluginError(kind, command, f"killed after {seconds:g} s") from None
    except OSError as error:
        reason = _WHY_NOT_RUN.get(error.errno or 0, str(error.strerror))
        raise PluginError(kind, command, f"cannot run {executable}: {reason}") from None
    except ValueError as error:  # a NUL in an argument, such as the pod's name
        raise PluginError(kind, command, f"cannot run {executable}: {error}") from None
    if code != 0:
        raise _failure(kind, command, code, answer, complaint)
    if complaint:
        log.info("CNI plugin", plugin=kind, command=command, stderr=_readable(complaint))
    return answer


def _failure(kind: str, command: str, code: int, answer: bytes, complaint: bytes) -> PluginError:
    """Return the error of a failed plugin: its error object, or else its output."""
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    try:
        said = json.loads(answer)
        details = str(said.get("details", ""))
        return PluginError(kind, command, str(said["msg"]), int(said["code"]), details)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
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
        _fill(files[0], text)
        pid = await _spawn(executable, files, environment)
        code = await _ended(pid)
        return code, _content(files[1]), _content(files[2])
    finally:
        for file in files:
            os.close(file)


async def _spawn(executable: str, files: Sequence[int], environment: Mapping[str, str]) -> int:
    """Start a process; retry for 5 s if its file is being replaced."""
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
    """Wait for the process and return its exit code; kills its group if cancelled."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # out of descriptors: its end cannot be waited for without blocking
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)  # noqa: ASYNC222 (it has been killed)
        raise

    reaped = False

    def reap() -> None:
        nonlocal reaped
        loop.remove_reader(pidfd)
        os.close(pidfd)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        reaped = True
        if not ended.done():
            ended.set_result(code)

    loop.add_reader(pidfd, reap)
    try:
        return await ended
    except asyncio.CancelledError:
        # The event of its exit reaps it. After that its number can belong to another process. Both
        # run in this thread, so before the event the number is still its own.
        if not reaped:
            os.killpg(pid, signal.SIGKILL)
        raise


def _fill(file: int, content: bytes) -> None:
    """Write a memory file and seek to its beginning."""
    with open(file, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(file, 0, os.SEEK_SET)


def _content(file: int) -> bytes:
    return os.pread(file, min(os.fstat(file).st_size, _OUTPUT_BYTES), 0)
