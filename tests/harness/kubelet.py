"""A kubelet without an API server on a Node: it runs the pods whose manifests are in its folder.

It is whatever ``kubelet`` is on PATH. Pods are plain manifests (dicts); ``run`` gives a ``Pod``,
whose answers are those of the kubelet's own HTTPS server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from generated.cri import api_pb2
from runtime.server.listener import is_served

from . import cgroups
from .leaks import claim
from .node import Node
from .registry import free_port
from .token_server import self_signed

Manifest = dict[str, Any]

NODE_NAME = "node"  # becomes the last part of the name of every static pod
NAMESPACE = "default"

PATIENCE = 180.0  # seconds that anything may take: an emulated machine is some ten times slower

# what no flag of the kubelet moves: sockets of device plugins, links to the logs of containers
FIXED_DIRECTORIES = (Path("/var/lib/kubelet/device-plugins"), Path("/var/log/containers"))
# what the kubelet sets for the whole machine
TUNABLES = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)


def missing() -> str:
    """Why no kubelet can be started here; "" if one can."""
    if not shutil.which("kubelet"):
        return "no kubelet on PATH"
    if os.geteuid() != 0:
        return "a kubelet needs root"
    plugins = FIXED_DIRECTORIES[0] / "kubelet.sock"
    if is_served(plugins):
        return f"another kubelet runs on this machine: it serves {plugins}"
    return ""


class Kubelet:
    """Starts on construction, ends with ``close``; its files are below the node's directory."""

    def __init__(self, node: Node, **config: Any):
        """``config`` are fields of the KubeletConfiguration that are added or replace."""
        self.node = node
        self.root = node.directory / "kubelet"
        self.port = free_port()
        self._more = config
        self.cgroup_root = f"kubelet_{secrets.token_hex(4)}"
        self.marks = claim(self.root, cgroup_parent=self.cgroup_root)
        self._made = [path for path in FIXED_DIRECTORIES if not path.exists()]
        self._plugins = set(FIXED_DIRECTORIES[0].glob("*"))
        self._tunables = {name: Path("/proc/sys", name).read_text() for name in TUNABLES}
        self._pods: list[Pod] = []
        # not where the leak check looks for names: cAdvisor names the cgroups of the whole machine
        self.log_file = self.root / "log" / "kubelet.log"
        self.share = self.root / "share"  # for pods, as a hostPath volume
        for name in ("log", "manifests", "pki", "share", "volume-plugins"):
            (self.root / name).mkdir(parents=True)
        (self.root / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch test.example\n")
        key, certificate = self_signed(self.root / "pki", "client")
        self.tls = ssl.create_default_context()
        # the kubelet makes its own certificate
        self.tls.check_hostname, self.tls.verify_mode = False, ssl.CERT_NONE
        self.tls.load_cert_chain(certificate, key)
        cgroups.make_parent(self.cgroup_root, systemd=node.systemd_cgroup)
        try:
            self.start()
        except BaseException:
            self._undo()
            raise

    def _configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": 0,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(self.root / "pki" / "client.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.node.socket}",
            "staticPodPath": str(self.root / "manifests"),
            "podLogsDir": str(self.node.logs),
            "volumePluginDir": str(self.root / "volume-plugins"),
            "resolvConf": str(self.root / "resolv.conf"),
            "cgroupRoot": f"/{self.cgroup_root}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "enableControllerAttachDetach": False,
            "registerNode": False,
            "serializeImagePulls": False,
            "syncFrequency": "1s",
            "fileCheckFrequency": "1s",
            "volumeStatsAggPeriod": "1s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
            # no disk is too full for a test, and no image is removed under it
            "evictionHard": {"memory.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "containerLogMaxSize": "64Ki",
            "containerLogMaxFiles": 2,
            "containerLogMonitorInterval": "3s",
            **self._more,
        }

    # Life

    def start(self) -> None:
        """Start the kubelet (again) and wait until it is healthy."""
        config = self.root / "config.json"
        config.write_text(json.dumps(self._configuration(), indent=2))
        command: list[str | Path] = [
            *("kubelet", "--config", config, "--root-dir", self.root, "--v=4"),
            *("--cert-dir", self.root / "pki", f"--hostname-override={NODE_NAME}"),
            # its cAdvisor asks containerd for the labels of what it measures
            *("--containerd", self.node.containerd_socket, "--containerd-namespace=k8s.io"),
        ]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self._is_healthy)
        except BaseException:
            self.stop()
            raise

    def _is_healthy(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the kubelet ended:\n{self.log()[-3000:]}")
        with contextlib.suppress(OSError):
            return self.get("/healthz") == b"ok"
        return False

    def stop(self) -> None:
        """End the kubelet only; pods keep running."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def restart(self, **config: Any) -> None:
        """Start anew; ``config`` replaces what was added to the KubeletConfiguration before."""
        self.stop()
        self._more = config
        # of another policy than the configured one it stops the kubelet
        (self.root / "cpu_manager_state").unlink(missing_ok=True)
        self.start()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def close(self) -> None:
        """Remove all pods, end the kubelet, and undo what it did to the machine."""
        try:
            for pod in self._pods:
                pod.remove()
            if self.process.poll() is None:
                wait_until(lambda: not self._held())
        finally:
            self.stop()
            self._undo()
            self.marks.settle()

    def _held(self) -> bool:
        """Whether something of a pod is left: running, on the disk, or as a cgroup.

        What has ended stays in the runtime until the kubelet collects garbage, once a minute.
        """
        return bool(
            list((self.root / "pods").glob("*"))
            or any(is_ready for is_ready in self.sandboxes().values())
            or self.pod_cgroups("*")
        )

    def _undo(self) -> None:
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if (where := line.split()[4]).startswith(f"{self.root}"):
                subprocess.run(["umount", "--lazy", where], check=True)
        for link in Path("/var/log/containers").glob("*.log"):
            if link.is_symlink() and str(link.readlink()).startswith(str(self.node.directory)):
                link.unlink()
        for path in set(FIXED_DIRECTORIES[0].glob("*")) - self._plugins:
            path.unlink()
        for path in self._made:
            shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        for name, value in self._tunables.items():
            Path("/proc/sys", name).write_text(value)
        cgroups.remove_parent(
            self.cgroup_root, systemd=self.node.systemd_cgroup, with_children=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The kubelet's server

    def url(self, path: str, **query: Any) -> str:
        """The address of ``path``; a list in ``query`` is a key that is repeated."""
        words = urllib.parse.urlencode(query, doseq=True)
        return f"https://127.0.0.1:{self.port}{path}" + (f"?{words}" if words else "")

    def get(self, path: str, **query: Any) -> bytes:
        """The answer to GET; raises OSError, with the answer, if it failed."""
        return self._answer(urllib.request.Request(self.url(path, **query)))

    def post(self, path: str, **query: Any) -> bytes:
        return self._answer(urllib.request.Request(self.url(path, **query), method="POST"))

    def opened(self, path: str, **query: Any) -> contextlib.closing[Any]:
        """The answer to GET while it is being written."""
        request = self.url(path, **query)
        return contextlib.closing(urllib.request.urlopen(request, timeout=60, context=self.tls))

    def _answer(self, request: urllib.request.Request) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.tls) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise OSError(f"{request.full_url}: {error.code}: {said}") from error
        except http.client.HTTPException as error:
            raise OSError(f"{request.full_url}: {error}") from error

    def pods(self) -> list[Manifest]:
        """What the kubelet says of all pods that it has been given."""
        listed: list[Manifest] = json.loads(self.get("/pods"))["items"] or []
        return listed

    def pod_stats(self, pod: Pod) -> Manifest:
        """What /stats/summary says of the pod, empty if it says nothing."""
        listed: list[Manifest] = json.loads(self.get("/stats/summary"))["pods"]
        return next((one for one in listed if one["podRef"]["uid"] == pod.uid), {})

    def cadvisor(self, pod: Pod, metric: str, **labels: str) -> str:
        """The line of /metrics/cadvisor with this metric of the pod and these labels, or ""."""
        wanted = [f'{key}="{value}"' for key, value in {"pod": pod.name, **labels}.items()]
        lines = self.get("/metrics/cadvisor").decode().splitlines()
        found = (line for line in lines if line.startswith(f"{metric}{{"))
        return next((line for line in found if all(label in line for label in wanted)), "")

    def metric(self, name: str) -> float:
        """The value of a metric of the kubelet itself; 0 if it has none."""
        found = re.search(rf"^{name} (\S+)$", self.get("/metrics").decode(), re.M)
        return float(found[1]) if found else 0.0

    def sandboxes(self) -> dict[str, bool]:
        """Uid of every pod in the runtime → whether its sandbox is ready."""
        listed = self.node.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
        return {pod.metadata.uid: pod.state == api_pb2.SANDBOX_READY for pod in listed}

    def sandbox_ids(self, uid: str) -> list[str]:
        """The pod's sandboxes in the runtime, those that ended too."""
        listed = self.node.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
        return [pod.id for pod in listed if pod.metadata.uid == uid]

    def supports(self, feature: str) -> bool:
        """Whether the default runtime handler has a feature, by its name in the CRI."""
        status = self.node.cri.runtime.Status(api_pb2.StatusRequest())
        (handler,) = (h for h in status.runtime_handlers if not h.name)
        return bool(getattr(handler.features, feature))

    def pod_cgroups(self, uid: str) -> list[Path]:
        """The pod's own cgroups, the parents of its containers'; ``*`` for those of all pods."""
        systemd = self.node.systemd_cgroup
        named = f"*-pod{uid.replace('-', '_')}.slice" if systemd else f"pod{uid}"
        found = (f"*/{named}", f"*/*/{named}")
        return [path for p in found for path in cgroups.below(self.cgroup_root, p, systemd=systemd)]

    # Pods

    def run(self, manifest: Manifest) -> Pod:
        """Give the kubelet a pod."""
        pod = Pod(self, manifest)
        self._pods.append(pod)
        pod.place()
        return pod

    def replace(self, pod: Pod, manifest: Manifest) -> Pod:
        """Give the kubelet a pod of the same name instead of ``pod``."""
        manifest["metadata"]["name"] = pod.manifest["metadata"]["name"]
        return self.run(manifest)

    def remove_pods(self) -> None:
        """Take the manifests of all pods away, without waiting for the kubelet."""
        for pod in self._pods:
            pod.remove()


class Pod:
    """A static pod, and what the kubelet says of it."""

    def __init__(self, kubelet: Kubelet, manifest: Manifest):
        self.kubelet = kubelet
        self.manifest = manifest
        self.name = f"{manifest['metadata']['name']}-{NODE_NAME}"
        self.uid = str(manifest["metadata"]["uid"])
        self._path = kubelet.root / "manifests" / f"{self.name}.json"

    def place(self) -> None:
        """Write the manifest in one step: the kubelet reads whatever it sees."""
        draft = self.kubelet.root / f"{self.name}.json"
        draft.write_text(json.dumps(self.manifest))
        draft.rename(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def directory(self) -> Path:
        """What the kubelet keeps of the pod on the disk."""
        return self.kubelet.root / "pods" / self.uid

    def status(self) -> Manifest:
        """The pod's status; empty if the kubelet does not know it (any more)."""
        for listed in self.kubelet.pods():
            if listed["metadata"]["name"] == self.name:
                status: Manifest = listed.get("status", {})
                return status
        return {}

    def wait(self, condition: Callable[[Manifest], object], seconds: float = PATIENCE) -> Manifest:
        """The status once ``condition`` is true of it."""
        deadline = time.monotonic() + seconds
        while not condition(status := self.status()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {json.dumps(status)}")
            time.sleep(0.1)
        return status

    def ready(self, seconds: float = PATIENCE) -> Manifest:
        """The status once the pod is ready."""
        return self.wait(lambda status: condition(status, "Ready") == "True", seconds)

    def ended(self, seconds: float = PATIENCE) -> Manifest:
        """The status once all containers have ended for good."""
        return self.wait(lambda s: s.get("phase") in ("Succeeded", "Failed"), seconds)

    def stopped(self, seconds: float = PATIENCE) -> None:
        """Return when the pod has ended in the runtime."""
        wait_until(lambda: not self.kubelet.sandboxes().get(self.uid), seconds)

    def container_id(self, name: str = "app") -> str:
        """The runtime's id of the container."""
        identity = str(container_status(self.status(), name)["containerID"])
        return identity.removeprefix("containerd://")

    def logs(self, container: str = "app", **query: Any) -> str:
        return self.kubelet.get(self.logs_path(container), **query).decode()

    def logs_path(self, container: str = "app") -> str:
        return f"/containerLogs/{NAMESPACE}/{self.name}/{container}"

    def output(self) -> str:
        """What the container wrote; its pod must succeed."""
        status = self.ended()
        text = self.logs()
        assert status["phase"] == "Succeeded", (text, status)
        return text

    def run(self, *command: str, container: str = "app") -> str:
        """The output of a command, by ExecSync; words without spaces, as /run splits at them."""
        path = f"/run/{NAMESPACE}/{self.name}/{container}"
        return self.kubelet.post(path, cmd=" ".join(command)).decode()

    def stream_url(self, verb: str, container: str = "app", **query: Any) -> str:
        """The address of ``exec`` or ``attach``; ``query`` as in `Kubelet.url`."""
        return self.kubelet.url(f"/{verb}/{NAMESPACE}/{self.name}/{container}", **query)

    def forward_url(self) -> str:
        return self.kubelet.url(f"/portForward/{NAMESPACE}/{self.name}")


def pod(*containers: Manifest, name: str = "pod", **spec: Any) -> Manifest:
    """A pod's manifest, with a name of its own; ``spec`` are further fields of its spec."""
    annotations = spec.pop("annotations", {})
    labels = spec.pop("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{secrets.token_hex(3)}",
            "uid": str(uuid.uuid4()),
            "namespace": NAMESPACE,
            "annotations": annotations,
            "labels": labels,
        },
        "spec": {"terminationGracePeriodSeconds": 1, "containers": list(containers), **spec},
    }


def container(image: str, script: str, name: str = "app", **fields: Any) -> Manifest:
    """A container that runs a shell script."""
    return {"name": name, "image": image, "command": ["sh", "-c", script], **fields}


def condition(status: Mapping[str, Any], kind: str) -> str:
    """``True``, ``False`` or "" of a condition of the pod."""
    found = (c["status"] for c in status.get("conditions", ()) if c["type"] == kind)
    return str(next(found, ""))


def container_status(status: Mapping[str, Any], name: str = "app") -> Manifest:
    """What the pod's status says of one container, empty if it says nothing."""
    kinds = ("containerStatuses", "initContainerStatuses")
    listed: list[Manifest] = [one for kind in kinds for one in status.get(kind, ())]
    return next((one for one in listed if one["name"] == name), {})


def waiting(status: Mapping[str, Any], name: str = "app") -> str:
    """Why the container does not run."""
    return str(container_status(status, name).get("state", {}).get("waiting", {}).get("reason", ""))


def wait_until(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.05)
