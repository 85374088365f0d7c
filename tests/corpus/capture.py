"""``python -m tests.corpus.capture [POD…]``: run the pods of ``pods/``, or those named, under a
real kubelet and write the requests that it sends into ``requests/``.

A proxy between the kubelet and the server records them. What differs from run to run (directories,
ids, times) is replaced.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import yaml
from google.protobuf.message import Message

from generated.cri import api_pb2
from tests.corpus.requests import FOLDER, message_of, text
from tests.harness import images
from tests.harness.kubelet import NAMESPACE, Kubelet, Manifest, Pod, missing, wait_until
from tests.harness.node import Node, containerds
from tests.harness.registry import Registry
from tests.oci_specs import CONTAINER_ID, SANDBOX_ID

HOST = "registry.example"
PODS = Path(__file__).parent / "pods"
RECORDED = ("RunPodSandbox", "PullImage", "CreateContainer", "ExecSync")
SHARE = "/srv/share"
_STREAMS = ("GetContainerEvents",)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SEEN = re.compile(r'("kubernetes.io/config.seen": )"[^"]*"')


class Proxy(grpc.GenericRpcHandler):
    """Passes every call on to ``target`` and records requests and responses by RPC."""

    def __init__(self, socket: str, target: str):
        self.calls: list[tuple[str, bytes, bytes]] = []
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(f"unix://{target}")
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[self])
        self._server.add_insecure_port(f"unix://{socket}")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        rpc = str(details.method).rpartition("/")[2]
        if rpc in _STREAMS:
            follow: Any = self._channel.unary_stream(str(details.method))
            return grpc.unary_stream_rpc_method_handler(lambda sent, _: self._follow(follow, sent))
        call: Any = self._channel.unary_unary(str(details.method))
        return grpc.unary_unary_rpc_method_handler(
            lambda sent, context: self._pass_on(rpc, call, sent, context)
        )

    def _pass_on(
        self, rpc: str, call: Callable[..., bytes], sent: bytes, context: grpc.ServicerContext
    ) -> bytes:
        answer = b""
        try:
            answer = call(sent)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
        finally:
            with self._lock:
                self.calls.append((rpc, sent, answer))
        return answer

    def _follow(self, call: Callable[..., Iterator[bytes]], sent: bytes) -> Iterator[bytes]:
        try:
            yield from call(sent)
        except grpc.RpcError:
            return

    def recorded(self) -> list[tuple[str, Message, bytes]]:
        """The requests of the RPCs of the corpus, and their answers, in order."""
        with self._lock:
            calls = [call for call in self.calls if call[0] in RECORDED]
        found = []
        for rpc, sent, answer in calls:
            message = message_of(rpc)
            message.ParseFromString(sent)
            found.append((rpc, message, answer))
        return found

    def close(self) -> None:
        self._server.stop(None).wait()
        self._channel.close()


def manifest(path: Path, digest: str) -> Manifest:
    """The pod of a file, with the image names and host directories of this run's registry."""
    content = path.read_text().replace("DIGEST", digest)
    found: Manifest = {"apiVersion": "v1", "kind": "Pod", **yaml.safe_load(content)}
    own = {
        "name": path.stem,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, path.stem)),
        "namespace": NAMESPACE,
    }
    found["metadata"] = {**found.get("metadata", {}), **own}
    spec = found["spec"]
    spec.setdefault("terminationGracePeriodSeconds", 1)
    for container in containers(found):
        container["image"] = f"{HOST}/{container['image']}"
    for volume in spec.get("volumes", []):
        if "image" in volume:
            volume["image"]["reference"] = f"{HOST}/{volume['image']['reference']}"
    return found


def containers(pod: Manifest) -> list[Manifest]:
    """The containers of a manifest, in the order of their start."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def names() -> set[str]:
    """``repository:tag`` of every image of the pods."""
    text = "".join(path.read_text() for path in PODS.glob("*.yaml"))
    return {name for name in re.findall(r'(?:image|reference): "?([\w./-]+:[\w.-]+)', text)}


def file_name(rpc: str, message: Any) -> str:
    """The file of a request below its pod's folder."""
    verb = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", rpc).lower()
    match rpc:
        case "CreateContainer":
            return f"{verb}.{message.config.metadata.name}.json"
        case "PullImage":
            return f"{verb}.{re.split('[@:]', message.image.image.rpartition('/')[2])[0]}.json"
        case _:
            return f"{verb}.json"


def capture(kubelet: Kubelet, proxy: Proxy, pod: Manifest) -> dict[str, str]:
    """Run a pod until all its containers are created; {file name: content} of its requests."""
    began = len(proxy.recorded())
    wanted = {container["name"] for container in containers(pod)}
    probed = any(
        "exec" in container.get(kind, {})
        for container in containers(pod)
        for kind in ("livenessProbe", "readinessProbe", "startupProbe")
    )

    def complete() -> bool:
        calls = proxy.recorded()[began:]
        created = {m.config.metadata.name for rpc, m, _ in calls if rpc == "CreateContainer"}  # type: ignore[attr-defined]
        return created >= wanted and (not probed or any(rpc == "ExecSync" for rpc, *_ in calls))

    running: Pod = kubelet.run(pod)
    try:
        wait_until(complete, 60)
    except AssertionError:
        print(f"{pod['metadata']['name']}: not all requests came", file=sys.stderr)
    calls = proxy.recorded()[began:]
    kubelet.remove_pods()
    running.stopped()
    found: dict[str, str] = {}
    replaced = _ids(calls) | {
        str(kubelet.share): SHARE,
        str(kubelet.root): "/var/lib/kubelet",
        str(kubelet.node.logs): "/var/log/pods",
        f"/{kubelet.cgroup_root}": "",
    }
    for rpc, message, _ in calls:
        found.setdefault(file_name(rpc, message), _normal(text(rpc, message), replaced))
    return found


def _ids(calls: list[tuple[str, Message, bytes]]) -> dict[str, str]:
    """The ids that the server gave, and what stands for them."""
    given = {}
    for rpc, _, answer in calls:
        if rpc == "RunPodSandbox":
            given[api_pb2.RunPodSandboxResponse.FromString(answer).pod_sandbox_id] = SANDBOX_ID
        if rpc == "CreateContainer":
            given[api_pb2.CreateContainerResponse.FromString(answer).container_id] = CONTAINER_ID
    given.pop("", None)
    return given


def _normal(content: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        content = content.replace(old, new)
    content = _SEEN.sub(r'\1"2026-01-01T00:00:00.000000000Z"', content)
    return _DIGEST.sub("sha256:" + "bb" * 32, content)


def main(asked: list[str]) -> int:
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, Registry(Path(folder)) as registry:
        layers = [images.layer_tar(images.busybox_files())]
        config = {"Entrypoint": ["/bin/sh", "-c", "sleep 1000"], "Env": ["PATH=/bin"]}
        digest = ""
        for name in sorted(names()):
            pushed = images.push(registry.url, name, {"amd64": images.image(layers, config)})
            digest = pushed if name == "app:1" else digest
        with Node(containerd=containerds()[-1], registry_mirrors={HOST: registry.url}) as node:
            socket = str(node.directory / "proxy.sock")
            proxy = Proxy(socket, node.socket)
            try:
                with (
                    Kubelet(node, containerRuntimeEndpoint=f"unix://{socket}") as kubelet,
                    ExitStack() as after,
                ):
                    _share(kubelet.share)
                    after.callback(subprocess.check_call, ["umount", kubelet.share])
                    for path in sorted(PODS.glob("*.yaml")):
                        if asked and path.stem not in asked:
                            continue
                        pod = manifest(path, digest)
                        _resolve_share(pod, str(kubelet.share))
                        _write(path.stem, capture(kubelet, proxy, pod))
            finally:
                proxy.close()
    return 0


def _share(folder: Path) -> None:
    """Make a directory a shared mount, as mounts that propagate to the host need."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "--make-shared", folder], check=True)


def _resolve_share(pod: Manifest, share: str) -> None:
    for volume in pod["spec"].get("volumes", []):
        if "hostPath" in volume:
            volume["hostPath"]["path"] = volume["hostPath"]["path"].replace("SHARE", share)


def _write(pod: str, files: dict[str, str]) -> None:
    shutil.rmtree(FOLDER / pod, ignore_errors=True)
    (FOLDER / pod).mkdir(parents=True)
    for name, content in files.items():
        (FOLDER / pod / name).write_text(content)
    print(f"{pod}: {', '.join(sorted(files))}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
