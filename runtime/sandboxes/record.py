"""Keep the pause container's record in step with what is known of the sandbox."""

from __future__ import annotations

from google.protobuf.field_mask_pb2 import FieldMask

from generated.containerd import containers_pb2
from runtime.containerd.client import Containerd
from runtime.store import records
from runtime.transforms import facts


async def save_metadata(
    containerd: Containerd, record: containers_pb2.Container, metadata: facts.SandboxMetadata
) -> None:
    """Write the sandbox's metadata into the extension of its pause container, whose ``record`` is
    sent as a whole: daemons may read more of an update than its mask names."""
    container = containers_pb2.Container()
    container.CopyFrom(record)
    container.extensions[records.SANDBOX_EXTENSION].CopyFrom(records.sandbox_extension(metadata))
    await containerd.containers.Update(
        containers_pb2.UpdateContainerRequest(
            container=container, update_mask=FieldMask(paths=["extensions"])
        )
    )
