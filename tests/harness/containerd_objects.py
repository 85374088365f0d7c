"""The objects in the private containerd of a test's node."""

from __future__ import annotations

import grpc

from generated.containerd import (
    containers_pb2,
    containers_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)

from .node import Node


def of(node: Node) -> set[str]:
    """The containers, leases and active snapshots of the node's own containerd."""
    socket = node.directory / "state" / "containerd" / "containerd.sock"
    metadata = [("containerd-namespace", "k8s.io")]
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        containers = containers_pb2_grpc.ContainersStub(channel).List(
            containers_pb2.ListContainersRequest(), metadata=metadata
        )
        leases = leases_pb2_grpc.LeasesStub(channel).List(
            leases_pb2.ListRequest(), metadata=metadata
        )
        snapshots = snapshots_pb2_grpc.SnapshotsStub(channel).List(
            snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs"), metadata=metadata
        )
        active = [
            info.name
            for page in snapshots
            for info in page.info
            if info.kind == snapshots_pb2.ACTIVE
        ]
    return {
        *(f"container {item.id}" for item in containers.containers),
        *(f"lease {item.id}" for item in leases.leases),
        *(f"snapshot {name}" for name in active),
    }
