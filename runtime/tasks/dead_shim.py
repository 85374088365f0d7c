"""Clean up after a shim that died or was killed: processes, cgroup and runc state.

containerd cleans up after the shim's first task only, the pause container's. Nothing ends the other
tasks of the pod, which shared the shim: their processes would run on, unmanaged. The same happens
if the server is killed while containerd creates a task: containerd forgets the task, and the shim
continues with ``runc create``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final

import structlog
from grpc import aio

from generated.containerd import containers_pb2, runc_options_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.containerd.runtime_options import is_runc, runc_binary, stored_options
from runtime.errors import Unknown
from runtime.steps import threads
from runtime.tasks import shims
from runtime.transforms import facts

log = structlog.get_logger(__name__)

DEFAULT_ROOT: Final = "/run/containerd/runc"
"""runc's state directory, unless the shim's options set another one."""

_CREATE_LIMIT: Final = 5.0
"""Seconds that a running ``runc create`` may still take."""

_DELETE_LIMIT: Final = 10.0
"""Seconds for ``runc delete --force``, which waits for the processes that it kills."""


async def clean_up(containerd: Containerd, container_id: str) -> None:
    """Let runc kill and delete a container whose task containerd no longer knows.

    Does nothing if runc has no state of it, as after every normal exit. Raises Unknown with runc's
    output if it fails or does not finish in time.
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


async def clean_up_record(
    namespace: str,
    record: containers_pb2.Container,
    *,
    being_created: Collection[str] | None = None,
) -> None:
    """Like `clean_up`, for a container whose record is available.

    ``being_created``, from `shims.being_created`, spares a scan of the process table for each of
    many containers.
    """
    if not is_runc(record.runtime.name):
        return
    if being_created is None or record.id in being_created:
        await shims.creation_ended(record.id, _CREATE_LIMIT)
    options = stored_options(record.runtime) or runc_options_pb2.Options()
    root = Path(options.root or DEFAULT_ROOT) / namespace
    if not await threads.STATE_FILES.run((root / record.id).exists):
        return
    log.warning(
        "deleting a runc container left by a shim; containerd does not know it", container=record.id
    )
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
