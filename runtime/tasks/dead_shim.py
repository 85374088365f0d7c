"""Clean up what a shim that died has left: the processes, the cgroup and runc's state of a task.

containerd cleans up after the shim's first task, the pause container's. The other tasks of the pod
shared the shim, and nobody is left to end them: their processes would run on for ever, unseen.
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
from runtime.containerd.runtime_options import is_runc
from runtime.errors import Unknown
from runtime.steps import threads

log = structlog.get_logger(__name__)

_DEFAULT_ROOT: Final = "/run/containerd/runc"
"""Where the shim has runc keep its state when the options name no other place."""


async def clean_up(containerd: Containerd, container_id: str) -> None:
    """Have runc kill and delete a container whose task containerd no longer knows.

    Does nothing where runc has no state of it, as after every ordinary end. Raises Unknown with
    runc's words when it fails.
    """
    try:
        answer = await containerd.containers.Get(
            containers_pb2.GetContainerRequest(id=container_id)
        )
    except aio.AioRpcError as error:
        if is_not_found(error):
            return
        raise
    runtime = answer.container.runtime
    if not is_runc(runtime.name):
        return
    options = runc_options_pb2.Options.FromString(runtime.options.value)
    root = Path(options.root or _DEFAULT_ROOT) / containerd.namespace
    if not await threads.STATE_FILES.run((root / container_id).exists):
        return
    log.warning("a shim died and left a container", container=container_id)
    await _delete(options, root, container_id)


async def _delete(options: runc_options_pb2.Options, root: Path, container_id: str) -> None:
    systemd = ["--systemd-cgroup"] if options.systemd_cgroup else []
    process = await asyncio.create_subprocess_exec(
        options.binary_name or "runc",
        *("--root", str(root), *systemd, "delete", "--force", container_id),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode:
        words = output.decode(errors="replace").strip()
        raise Unknown(f"runc cannot delete container {container_id} of a dead shim: {words}")
