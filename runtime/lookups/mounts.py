"""The sources of a container's mounts: created if missing, resolved, and their propagation read.

The paths can be on network mounts that hang, so callers run these functions in a thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.linux import mountinfo
from runtime.steps import threads
from runtime.transforms.facts import MountSource


def host_sources(mounts: Sequence[api_pb2.Mount]) -> tuple[MountSource, ...]:
    """The sources of ``mounts``, in order.

    Raises InvalidArgument for a source that does not exist and cannot be created.
    """
    # a private mount does not need the mount table, which can be long
    needs_table = any(mount.propagation != api_pb2.PROPAGATION_PRIVATE for mount in mounts)
    table = mountinfo.read() if needs_table else ()
    return tuple(_host_source(index, mount, table) for index, mount in enumerate(mounts))


def _host_source(index: int, mount: api_pb2.Mount, table: Sequence[mountinfo.Mount]) -> MountSource:
    threads.looking_at(mount.host_path)
    try:
        # makedirs and not a look first: a source that appears meanwhile is as good
        if not os.path.exists(mount.host_path):
            os.makedirs(mount.host_path, mode=0o755, exist_ok=True)
        path = os.path.realpath(mount.host_path, strict=True)
    except OSError as error:
        raise InvalidArgument(
            f"cannot use or create the source {mount.host_path}: {error.strerror}",
            field=f"config.mounts[{index}].host_path",
        ) from error
    held_by = mountinfo.holding(path, table)
    if held_by is None:
        return MountSource(path)
    return MountSource(path, held_by.shared, held_by.slave)
