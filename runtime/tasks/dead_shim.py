"""Clean up what a shim that died, or that was given up, has left: processes, cgroup and runc state.

containerd cleans up after the shim's first task, the pause container's. The other tasks of the pod
shared the shim, and nothing else ends them: their processes would run on, unseen. The same is left
when the server is killed while containerd creates a task: containerd forgets the task, and the
shim goes on with ``runc create``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog
from grpc import aio

from generated.containerd import containers_pb2, runc_options_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.removals import is_not_found
from runtime.containerd.runtime_options import is_runc, runc_binary, stored_options
from runtime.errors import Unknown
from runtime.steps import threads
from runtime.tasks import shims
from runtime.transforms import facts

log = structlog.get_logger(__name__)

DEFAULT_ROOT: Final = "/run/containerd/runc"
"""runc's state directory, if the shim's options do not name another one."""

_CREATE_LIMIT: Final = 5.0
"""Seconds that a ``runc create`` under way may still take."""

_DELETE_LIMIT: Final = 10.0
"""Seconds for ``runc delete --force``, which waits for the processes that it kills."""


async def clean_up(containerd: Containerd, container_id: str) -> None:
    """Let runc kill and delete a container whose task containerd no longer knows.

    Does nothing where runc has no state of it, as after every ordinary end. Raises Unknown with
    runc's words when it fails or does not end in time.
    """
    try:
        answer = await containerd.containers.Get(
            containers_pb2.GetContainerRequest(id=container_id)
        )
    except aio.AioRpcError as error:
        if is_not_found(error):
            return
        raise
    await clean_up_record(containerd.namespace, answer.container)


async def clean_up_record(namespace: str, record: containers_pb2.Container) -> None:
    """As `clean_up`, for a container whose record is at hand."""
    if not is_runc(record.runtime.name):
        return
    await shims.creation_ended(record.id, _CREATE_LIMIT)
    options = stored_options(record.runtime) or runc_options_pb2.Options()
    root = Path(options.root or DEFAULT_ROOT) / namespace
    if not await threads.STATE_FILES.run((root / record.id).exists):
        return
    log.warning("a shim left a container that containerd does not know", container=record.id)
    await _delete(options, root, record.id)


def has_state(namespace: str, container_id: str, handler: facts.Handler | None) -> bool:
    """Whether runc has state of the container; a cheap check."""
    root = handler.options.get("Root") if handler else None
    return Path(str(root or DEFAULT_ROOT), namespace, container_id).exists()


async def _delete(options: runc_options_pb2.Options, root: Path, container_id: str) -> None:
    systemd = ["--systemd-cgroup"] if options.systemd_cgroup else []
    process = await asyncio.create_subprocess_exec(
        runc_binary(options),
        *("--root", str(root), *systemd, "delete", "--force", container_id),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_DELETE_LIMIT):
            output, _ = await process.communicate()
    except TimeoutError as error:
        raise Unknown(
            f"runc cannot delete container {container_id} of a dead shim: "
            f"it did not end within {_DELETE_LIMIT:.0f} s"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        words = output.decode(errors="replace").strip()
        raise Unknown(f"runc cannot delete container {container_id} of a dead shim: {words}")
