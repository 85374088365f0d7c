"""User namespaces of pods, and the network namespaces that belong to them.

Only a process with a single thread can create a user namespace, so a child process does it:
``unshare`` of util-linux. The child waits until its IDs are mapped, and then creates the network
namespace, whose files in /proc and /sys therefore belong to the pod's root. It exits when its input
is closed, which includes the death of this server, and the namespaces end with it unless they were
pinned before.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from runtime.linux import kernel, netns
from runtime.steps.parallel import all_finished

# A line of output says that the namespace exists, a line of input that the IDs are mapped. The
# capabilities must survive the second exec, because the kernel drops those of a process without
# IDs.
_WAIT_FOR_IDS: Final = "echo && read -r _"
_IN_USER_NAMESPACE: Final = ("unshare", "--user", "--keep-caps", "sh", "-c")
_ECHO: Final = b"\n"


@dataclass(frozen=True, slots=True)
class MapLines:
    """The lines of /proc/PID/uid_map and gid_map: ``inside outside count``."""

    uids: str
    gids: str


async def create(netns_path: str, userns_path: str, maps: MapLines) -> None:
    """Create a user namespace and, in it, a network namespace with loopback up (about 6 ms).

    Both are pinned to files, which `netns.unpin` removes. Raises OSError with the reason, and then
    leaves nothing behind. A cancellation is raised only after the namespaces were created or have
    failed.
    """
    await all_finished(netns.in_own_thread(_create, netns_path, userns_path, maps))


@contextlib.contextmanager
def held(maps: MapLines) -> Iterator[str]:
    """A user namespace that exists while the block runs; its file in /proc. Blocks for about 3 ms.

    Raises OSError, with the reason.
    """
    with _child(_WAIT_FOR_IDS, maps) as child:
        yield f"/proc/{child.pid}/ns/user"


def _create(netns_path: str, userns_path: str, maps: MapLines) -> None:
    with (
        contextlib.ExitStack() as undo,
        _child(f"{_WAIT_FOR_IDS} && exec unshare --net cat", maps) as child,
    ):
        _say(child, _ECHO)
        # the process is cat now, so the network namespace exists
        _say(child, _ECHO)
        _hear(child)
        for kind, path in (("net", netns_path), ("user", userns_path)):
            netns.pin(f"/proc/{child.pid}/ns/{kind}", path)
            undo.callback(netns.unpin, path)
        with open(netns_path, "rb") as namespace:
            kernel.setns(namespace.fileno(), kernel.CLONE_NEWNET)
        netns.raise_loopback()
        undo.pop_all()


@contextlib.contextmanager
def _child(script: str, maps: MapLines) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a new user namespace with these ids, which runs ``script``."""
    try:
        child = subprocess.Popen(
            [*_IN_USER_NAMESPACE, script],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise OSError(
            error.errno, "cannot create a user namespace: no program unshare; install util-linux"
        ) from error
    try:
        _hear(child)
        for kind, ids in (("uid", maps.uids), ("gid", maps.gids)):
            _map_ids(child, kind, ids)
        yield child
    finally:
        for pipe in (child.stdin, child.stdout, child.stderr):
            _of(pipe).close()
        child.wait()


def _map_ids(child: subprocess.Popen[bytes], kind: str, ids: str) -> None:
    try:
        with open(f"/proc/{child.pid}/{kind}_map", "w", encoding="ascii") as file:
            file.write(ids)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot map the {kind}s of a user namespace to {ids}: {error.strerror}"
        ) from error


def _say(child: subprocess.Popen[bytes], text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # it failed, and `_hear` says why
        _of(child.stdin).write(text)


def _hear(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child's next byte; if it exited instead, raises OSError with its message."""
    if not _of(child.stdout).read(1):
        reason = _of(child.stderr).read().decode(errors="replace").strip()
        raise OSError(
            errno.EAGAIN,
            f"cannot create a user namespace: {reason or 'unshare ended'}"
            " (is /proc/sys/user/max_user_namespaces or max_net_namespaces too low?)",
        )


def _of(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
