"""Create the task of a container whose earlier task containerd may still be cleaning up.

If the server is killed while containerd creates a task, containerd forgets the task at once, but
deletes its bundle directory only after the shim has answered. Until then it cannot create another
task with the same ID. If the shim does not answer within containerd's own time limits, containerd
gives up and keeps the bundle until its next restart.
"""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Final

import structlog
from grpc import aio

from generated.containerd import tasks_pb2
from runtime.containerd.client import Containerd
from runtime.errors import Unknown
from runtime.linux.directories import remove_tree
from runtime.steps import threads
from runtime.tasks import dead_shim
from runtime.tasks.calls import task

log = structlog.get_logger(__name__)

_BUNDLE_EXISTS: Final = re.compile(r"mkdir (/\S+): file exists")
"""How containerd says that there is a bundle but no task; the error has no code of its own."""

_BUNDLE_DELETED: Final = re.compile(
    r"failed to start shim: .*\bgetwd: no such file or directory", re.DOTALL
)
"""How a shim says that its bundle, the directory it starts in, was deleted under it. containerd 1.6
deletes the bundle of an earlier task twice: when the shim has deleted the task, and when the
connection to the shim is closed. The second deletion can hit the bundle of the next task."""

_TRIES: Final = 4
"""Calls of Tasks.Create: a bundle to wait for and both deletions can make one fail."""

_CLEAN_UP_LIMIT: Final = 12.0
"""Seconds for containerd's cleanup: it waits 5 s for the shim to delete the task and, if that
failed, 5 s for the shim to shut down."""
_PAUSE: Final = 0.02
"""Seconds between two looks at the bundle."""


async def create_task(containerd: Containerd, request: tasks_pb2.CreateTaskRequest) -> None:
    """Create the task, if necessary after containerd's cleanup of an earlier one.

    A bundle that containerd did not delete in time is removed. Raises AioRpcError, and Unknown if
    the bundle cannot be removed.
    """
    for _ in range(_TRIES - 1):
        try:
            await containerd.tasks.Create(request)
            return
        except aio.AioRpcError as error:
            bundle = _existing_bundle(error, request.container_id)
            if bundle is None and _BUNDLE_DELETED.search(error.details() or "") is None:
                raise
        if bundle is None:
            log.info("containerd deleted the bundle of a new task", id=request.container_id)
        else:
            log.info("waiting for containerd to delete an earlier bundle", path=str(bundle))
            if not await _deleted(bundle):
                await _remove(containerd, request.container_id, bundle)
    await containerd.tasks.Create(request)


def _existing_bundle(error: aio.AioRpcError, container_id: str) -> Path | None:
    """The container's bundle, if the error says that it exists already."""
    found = _BUNDLE_EXISTS.search(error.details() or "")
    if found is None or Path(found[1]).name != container_id:
        return None
    return Path(found[1])


async def _deleted(bundle: Path) -> bool:
    deadline = time.monotonic() + _CLEAN_UP_LIMIT
    while await threads.STATE_FILES.run(bundle.exists):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE)
    return True


async def _remove(containerd: Containerd, container_id: str, bundle: Path) -> None:
    """Delete a bundle that containerd gave up, and whatever runs in it."""
    if await task(containerd, container_id) is not None:
        return  # another client created it meanwhile: Tasks.Create will say so
    log.warning("deleting a bundle that containerd left", path=str(bundle))
    await dead_shim.clean_up(containerd, container_id)
    try:
        await remove_tree(bundle)
    except OSError as error:
        raise Unknown(
            f"containerd left the bundle {bundle} of an earlier task, which cannot be deleted "
            f"({error.strerror}); restart containerd, which deletes it"
        ) from error
