"""What a node shows of a pod or container: by the CRI, in containerd, in files, from inside."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from generated.containerd import (
    containers_pb2,
    containers_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)
from generated.cri import api_pb2
from tests.harness.cri import Cri

_METADATA = [("containerd-namespace", "k8s.io")]
_LIMIT = 30.0  # seconds for a call
_QUIET = 0.3  # seconds without an event, after which the last one has arrived


def as_tree(message: Message) -> Any:
    """The message as JSON values; unset fields are absent."""
    return MessageToDict(message, preserving_proto_field_name=True)


class Observer:
    """Reads one node."""

    def __init__(self, cri: Cri, containerd: str):
        self._cri = cri
        self._channel = grpc.insecure_channel(f"unix://{containerd}")
        self._containers = containers_pb2_grpc.ContainersStub(self._channel)
        self._snapshots = snapshots_pb2_grpc.SnapshotsStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def container(self, id: str) -> dict[str, Any]:
        """Everything of a container; of one that does not exist, the code of its status."""
        status = api_pb2.ContainerStatusRequest(container_id=id, verbose=True)
        chosen = api_pb2.ContainerFilter(id=id)
        listed = self._cri.runtime.ListContainers(api_pb2.ListContainersRequest(filter=chosen))
        try:
            answer = self._cri.runtime.ContainerStatus(status, timeout=_LIMIT)
        except grpc.RpcError as error:
            return {"status": error.code().name, "listed": as_tree(listed)}
        return {
            **_answered(answer, record := self._record(id)),
            "listed": as_tree(listed),
            **record,
            "log": _file(Path(answer.status.log_path)) if answer.status.log_path else "",
        }

    def pod(self, id: str) -> dict[str, Any]:
        """Everything of a pod; of one that does not exist, the code of its status."""
        status = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=id, verbose=True)
        chosen = api_pb2.PodSandboxFilter(id=id)
        listed = self._cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest(filter=chosen))
        try:
            answer = self._cri.runtime.PodSandboxStatus(status, timeout=_LIMIT)
        except grpc.RpcError as error:
            return {"status": error.code().name, "listed": as_tree(listed)}
        record = self._record(id)
        files = {
            mount["destination"]: _file(Path(mount["source"]))
            for mount in record.get("spec", {}).get("mounts", [])
            if mount.get("type") == "bind"
        }
        if "/etc/resolv.conf" in files:
            folder = Path(_source(record["spec"], "/etc/resolv.conf")).parent
            files |= {name: _file(folder / name) for name in ("hostname", "hosts")}
        return {**_answered(answer, record), "listed": as_tree(listed), **record, "files": files}

    def _record(self, id: str) -> dict[str, Any]:
        """containerd's record of a container or pause container, and its snapshot."""
        try:
            request = containers_pb2.GetContainerRequest(id=id)
            record = self._containers.Get(request, metadata=_METADATA, timeout=_LIMIT).container
        except grpc.RpcError as error:
            return {"record": error.code().name}
        try:
            stat = snapshots_pb2.StatSnapshotRequest(
                snapshotter=record.snapshotter, key=record.snapshot_key
            )
            info = self._snapshots.Stat(stat, metadata=_METADATA, timeout=_LIMIT).info
            snapshot = as_tree(info)
        except grpc.RpcError as error:
            snapshot = error.code().name
        spec = json.loads(record.spec.value)
        return {
            "spec": spec,
            "record": {
                "labels": dict(record.labels),
                "image": record.image,
                "runtime": record.runtime.name,
                "snapshotter": record.snapshotter,
                "snapshot_key": record.snapshot_key,
                "extensions": {
                    name: json.loads(extension.value)
                    for name, extension in record.extensions.items()
                    if extension.value.startswith(b"{")
                },
            },
            "snapshot": snapshot,
        }


class Events:
    """Follows the events of one node; one stream, because a new one can miss what came before."""

    def __init__(self, cri: Cri) -> None:
        self._told: list[api_pb2.ContainerEventResponse] = []
        self.code = "OK"
        """How the stream ended, if it did."""
        self._call = cri.runtime.GetContainerEvents(api_pb2.GetEventsRequest())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self._told.append(event)
        except grpc.RpcError as error:
            self.code = error.code().name

    def wait_until_quiet(self) -> None:
        count = -1
        while count != len(self._told):
            count = len(self._told)
            time.sleep(_QUIET)

    def of(self, ids: Collection[str]) -> dict[str, Any]:
        """The events of these objects: their order, and what each says; a repeated one is
        numbered."""
        self.wait_until_quiet()
        order: list[str] = []
        told: dict[str, Any] = {}
        counts: Counter[str] = Counter()
        for event in list(self._told):
            if event.container_id in ids:
                kind = api_pb2.ContainerEventType.Name(event.container_event_type)
                kind = kind.removeprefix("CONTAINER_").removesuffix("_EVENT")
                order.append(one := f"{kind} {event.container_id}")
                counts[one] += 1
                repeated = f"_{counts[one]}" if counts[one] > 1 else ""
                tree = as_tree(event)
                if event.pod_sandbox_status.state == api_pb2.SANDBOX_NOTREADY:
                    # the built-in plugin removes the network before or after it makes the event
                    tree.get("pod_sandbox_status", {}).pop("network", None)
                told.setdefault(event.container_id, {})[f"{kind}{repeated}"] = tree
        return {"order": order, "told": told}

    def close(self) -> None:
        self._call.cancel()
        self._thread.join(_LIMIT)


def _answered(answer: Message, record: dict[str, Any]) -> dict[str, Any]:
    """The answer without what it repeats of containerd's record."""
    tree: dict[str, Any] = as_tree(answer)
    info = json.loads(tree.get("info", {}).get("info", "{}"))
    for extension in record.get("record", {}).get("extensions", {}).values():
        if info.get("config") == extension["Metadata"]["Config"]:
            del info["config"]
        if info.get("sandboxMetadata") == extension:
            del info["sandboxMetadata"]
    if info.get("runtimeSpec") == record.get("spec"):
        info.pop("runtimeSpec", None)
    if rules := record.get("spec", {}).get("linux", {}).get("seccomp", {}).get("syscalls"):
        record["spec"]["linux"]["seccomp"]["syscalls"] = _by_name(rules)
    return tree | {"info": info}


def _by_name(rules: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What a seccomp filter does with each system call, however its rules are grouped."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        conditions = [
            f"{test['op']}{tuple(test.get(key, 0) for key in ('index', 'value', 'valueTwo'))}"
            for test in rule.get("args") or []
        ]
        what = " ".join([rule["action"], str(rule.get("errnoRet", 0)), *conditions])
        for name in rule["names"]:
            found.setdefault(name, []).append(what)
    return {name: sorted(set(found[name])) for name in sorted(found)}


def _source(spec: dict[str, Any], destination: str) -> str:
    return next(str(m["source"]) for m in spec["mounts"] if m["destination"] == destination)


def _file(path: Path) -> Any:
    """Mode, owner and, of a file, its text."""
    try:
        facts = path.stat()
        seen: dict[str, Any] = {
            "mode": oct(facts.st_mode),
            "owner": f"{facts.st_uid}:{facts.st_gid}",
        }
        if path.is_file():
            seen["text"] = path.read_text(errors="replace")
    except OSError as error:
        return error.strerror
    return seen


def process(log: str) -> dict[str, Any]:
    """What ``probe.sh`` printed, from the container's log."""
    lines = [line.split(" ", 3)[3] for line in log.splitlines() if line.count(" ") >= 3]
    sections: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("=== "):
            sections[line.removeprefix("=== ")] = []
        elif sections:
            sections[list(sections)[-1]].append(line)
    tree: dict[str, Any] = dict(sections)
    for name in ("status", "values"):
        pairs = (line.partition(":") for line in sections.get(name, []))
        tree[name] = {key.strip(): " ".join(value.split()) for key, _, value in pairs}
    tree["mountinfo"] = [_mount(line) for line in sections.get("mountinfo", [])]
    return tree


def _mount(line: str) -> dict[str, str]:
    """A line of mountinfo without the numbers of the mount and its device."""
    before, separator, after = line.partition(" - ")
    if not separator:
        return {"destination": line}  # why the file could not be read
    _, _, _, root, destination, options, *propagation = before.split()
    kind, source, more = after.split(" ", 2)
    return {
        "destination": destination,
        "root": root,
        "options": options,
        "propagation": " ".join(re.sub(r":\d+", "", field) for field in propagation),
        "type": kind,
        "source": source,
        # the directories of an overlay are those of the node's snapshots
        "of_the_file_system": re.sub(r"(lowerdir|upperdir|workdir)=[^,]*", r"\1", more),
    }
