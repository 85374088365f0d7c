"""The parts of OCI specs that later calls need, so that they need not query containerd.

A whole spec is large (its seccomp filter alone names 400 system calls), so only two small parts are
kept: the values shown in a status, and the process as JSON, from which the processes of commands
are derived. After a restart they are read from containerd when first needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import containers_pb2
from generated.oci import types
from runtime.containerd.values import process_any
from runtime.errors import NotFound, from_rpc
from runtime.transforms.process import command_env, program

if TYPE_CHECKING:
    from runtime.containerd.client import Containerd


@dataclass(frozen=True, slots=True)
class _Kept:
    shown: types.Spec
    process: bytes


class Specs:
    """The kept parts of the specs of all containers."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._kept: dict[str, _Kept] = {}

    def remember(self, container_id: str, spec: types.Spec) -> None:
        """Remember a spec that was stored in containerd."""
        self._kept[container_id] = _Kept(
            types.Spec(
                process=types.Process(user=spec.process.user, oomScoreAdj=spec.process.oomScoreAdj),
                linux=types.Linux(resources=spec.linux.resources, mountLabel=spec.linux.mountLabel),
            ),
            msgspec.json.encode(spec.process.to_dict()),
        )

    def forget(self, container_id: str) -> None:
        """The container was removed."""
        self._kept.pop(container_id, None)

    async def shown(self, container_id: str) -> types.Spec:
        """User, resources and mount label of the container; everything else is absent."""
        return (await self._get(container_id)).shown

    async def process(
        self, container_id: str, command: list[str], *, terminal: bool = False
    ) -> AnyMessage:
        """The OCI process that runs ``command`` like the container's first process.

        Raises InvalidArgument for a program name that is too long for any path.
        """
        args = program(command, field="cmd[0]")
        kept = await self._get(container_id)
        process: dict[str, Any] = msgspec.json.decode(kept.process)
        process["args"] = args
        process["terminal"] = terminal
        process["env"] = command_env(process.get("env", ()), tty=terminal)
        process.pop("consoleSize", None)
        return process_any(process)

    async def _get(self, container_id: str) -> _Kept:
        kept = self._kept.get(container_id)
        if kept is None:
            record = await read_record(self._containerd, container_id)
            self.remember(container_id, types.Spec.from_json(record.spec.value))
            kept = self._kept[container_id]
        return kept


async def read_record(containerd: Containerd, container_id: str) -> containers_pb2.Container:
    """Containerd's record of a container; NotFound if another client deleted it."""
    try:
        answer = await containerd.containers.Get(
            containers_pb2.GetContainerRequest(id=container_id)
        )
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            raise NotFound(
                f"containerd no longer has container {container_id}; remove the container"
            ) from error
        raise from_rpc(error, f"read container {container_id}") from error
    record: containers_pb2.Container = answer.container
    return record
