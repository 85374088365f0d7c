"""A remote snapshotter as a proxy plugin of containerd: it has some layers without a download.

Snapshots are directories without the parents' content: enough to see containerd's requests.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from generated.containerd import snapshots_pb2, snapshots_pb2_grpc, types_pb2


class LazySnapshotter(snapshots_pb2_grpc.SnapshotsServicer):
    """Serves on ``socket`` until ``close``."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self._directory = directory
        self.provided: set[str] = set()
        """Digests of the layers that it provides by itself."""
        self.prepared: list[dict[str, str]] = []
        """The labels of each snapshot that is unpacked into."""
        self._known: dict[str, Any] = {}
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        snapshots_pb2_grpc.add_SnapshotsServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix://{socket}")
        self._server.start()

    def close(self) -> None:
        self._server.stop(0).wait()

    def _mounts(self, key: str) -> list[types_pb2.Mount]:
        path = self._directory / str(abs(hash(key)))
        path.mkdir(parents=True, exist_ok=True)
        return [types_pb2.Mount(type="bind", source=str(path), options=["rbind", "rw"])]

    def _info(self, request: Any, kind: int) -> Any:
        return snapshots_pb2.Info(
            name=getattr(request, "name", "") or request.key,
            parent=getattr(request, "parent", ""),
            kind=kind,  # type: ignore[arg-type]
            labels=dict(request.labels),
        )

    def Prepare(self, request: Any, context: Any) -> Any:
        labels = dict(request.labels)
        self.prepared.append(labels)
        name = labels.get("containerd.io/snapshot.ref", "")
        if labels.get("containerd.io/snapshot/cri.layer-digest") in self.provided:
            info = self._info(request, snapshots_pb2.COMMITTED)
            info.name = name
            self._known[name] = info
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"target {name} exists")
        self._known[request.key] = self._info(request, snapshots_pb2.ACTIVE)
        return snapshots_pb2.PrepareSnapshotResponse(mounts=self._mounts(request.key))

    def View(self, request: Any, context: Any) -> Any:
        self._known[request.key] = self._info(request, snapshots_pb2.VIEW)
        return snapshots_pb2.ViewSnapshotResponse(mounts=self._mounts(request.key))

    def Mounts(self, request: Any, context: Any) -> Any:
        return snapshots_pb2.MountsResponse(mounts=self._mounts(request.key))

    def Commit(self, request: Any, context: Any) -> Any:
        active = self._known.pop(request.key)
        committed = self._info(request, snapshots_pb2.COMMITTED)
        committed.parent = active.parent
        self._known[request.name] = committed
        return Empty()

    def Remove(self, request: Any, context: Any) -> Any:
        if self._known.pop(request.key, None) is None:
            context.abort(grpc.StatusCode.NOT_FOUND, request.key)
        return Empty()

    def Stat(self, request: Any, context: Any) -> Any:
        if request.key not in self._known:
            context.abort(grpc.StatusCode.NOT_FOUND, request.key)
        return snapshots_pb2.StatSnapshotResponse(info=self._known[request.key])

    def Update(self, request: Any, context: Any) -> Any:
        self._known[request.info.name].labels.update(request.info.labels)
        return snapshots_pb2.UpdateSnapshotResponse(info=self._known[request.info.name])

    def List(self, request: Any, context: Any) -> Iterator[Any]:
        yield snapshots_pb2.ListSnapshotsResponse(info=list(self._known.values()))

    def Usage(self, request: Any, context: Any) -> Any:
        return snapshots_pb2.UsageResponse(size=0, inodes=1)

    def Cleanup(self, request: Any, context: Any) -> Any:
        return Empty()
