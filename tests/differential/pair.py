"""The two nodes, and one case performed on both."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import grpc
import yaml
from google.protobuf import text_format
from google.protobuf.message import Message

from generated.cri import api_pb2
from tests.harness import cgroups, images
from tests.harness.cri import container_config, pod_config
from tests.harness.node import Containerd, Node
from tests.harness.registry import Registry

from . import observe
from .compare import Difference, differences
from .normalize import IDENTITY, normal, text

HOST = "diff.example"
PLAIN, CONFIGURED, PAUSE = (f"{HOST}/{name}:1" for name in ("plain", "configured", "pause"))
PROBE = "/bin/probe"
_HERE = Path(__file__).parent
_RPCS = yaml.safe_load((_HERE.parents[1] / "spec" / "rpc.yaml").read_text())
_LIMIT = 30.0  # seconds for a call
_LOGS = Path("build/differential")
_NAME = re.compile(r"<(?P<name>[a-z]+(?::[a-z-]+)?)(?:\|(?P<length>\d+))?>")
_FIELD = re.compile(r"(?:^|; )([a-z]\w*(?:(?:\.\w+)|\[[^\]]*\])*): ")


@dataclass(frozen=True, slots=True)
class Rpc:
    name: str
    service: str
    mutates: bool
    streams: bool


RPCS: dict[str, Rpc] = {
    method.input_type.name: Rpc(
        method.name, service.name, _RPCS[method.name].get("mutates", False), method.server_streaming
    )
    for service in api_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""By the name of the request's type."""


@dataclass(slots=True)
class Answer:
    """What came of one step."""

    code: str
    message: str = ""
    tree: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def push_images(registry: Registry) -> None:
    files = images.busybox_files() | {"bin/probe": (_HERE / "probe.sh").read_bytes()}
    files |= {"data/deep": None, "data/deep/seed": b"seed\n", "volume": None}
    layers = [images.layer_tar(files)]
    configs: dict[str, dict[str, Any]] = {
        PLAIN: {},
        CONFIGURED: {
            "Entrypoint": ["/bin/probe"],
            "Cmd": ["of", "the", "image"],
            "Env": ["PATH=/usr/bin:/bin", "FROM=image", "EMPTY="],
            "User": "www",
            "WorkingDir": "/www",
            "Volumes": {"/volume": {}, "/data/deep": {}},
            "Labels": {"maintainer": "someone", "containerd.io/x": "dropped"},
            "StopSignal": "SIGUSR1",
        },
        PAUSE: {"Entrypoint": ["sleep", "2147483647"], "Cmd": []},
    }
    for name, config in configs.items():
        pushed = {"amd64": images.image(layers, config)}
        images.push(registry.url, name.partition("/")[2], pushed)


class Side:
    """One of the nodes. Requests name its objects as ``<pod:plain>``, and its folders."""

    def __init__(self, kind: Literal["ours", "builtin"], containerd: Containerd, url: str):
        self.kind = kind
        self.node = Node(
            kind=kind,
            containerd=containerd,
            registry_mirrors={HOST: url},
            pause_image=PAUSE,
            log_level="debug",
            cgroup_parent=f"cri-differential-{kind}",
        )
        self.cri = self.node.cri
        self.observer = observe.Observer(self.cri, str(self.node.containerd_socket))
        self.events = observe.Events(self.cri)
        folder = self.node.directory
        self.names = {
            "volumes": str(folder / "volumes"),
            "logs": str(folder / "pods"),
            "cgroup": self.node.cgroup_parent,
        }
        self._configs: dict[str, api_pb2.PodSandboxConfig] = {}
        self._made_cgroups: list[Path] = []
        self._shared_logs: set[Path] = set()
        self._shared_files: set[Path] = set()
        self._hidden = {str(folder): "<node>", self.node.cgroup_parent: "<cgroup>"}
        self._hidden |= {self.node.bridge: "<bridge>", self.node.network: "<network>"}

    def prepare(self) -> None:
        """Files, images, pods and containers that cases use."""
        self._make_volumes(volumes := Path(self.names["volumes"]))
        self._shared_files = set(volumes.rglob("*"))
        (self.node.directory / "a").mkdir()  # what the relative path "a" of a request names
        for reference in (PAUSE, PLAIN, CONFIGURED):
            name = reference.split("/")[1].partition(":")[0]
            self._name(f"image:{name}", self.cri.pull(reference))
        for name, config, handler in _shared_pods():
            config = self._configs[f"<pod:{name}>"] = self._resolved(config)
            self._name(f"pod:{name}", self.cri.run_pod(config, handler))
        for name, pod, container in _shared_containers():
            made = self.cri.create(
                self.names[f"pod:{pod}"], container, self._configs[f"<pod:{pod}>"]
            )
            self._name(f"container:{name}", made)
            if name != "created":
                self.cri.start(made)
        self.cri.wait_for_state(self.names["container:exited"], api_pb2.CONTAINER_EXITED)
        self._shared_logs = set(Path(self.names["logs"]).rglob("*.*"))
        self._wait_until_measured()

    def _wait_until_measured(self) -> None:
        """Both servers measure the layers of all containers every few seconds."""
        deadline = time.monotonic() + _LIMIT
        request = api_pb2.ListContainerStatsRequest()
        while not all(
            one.writable_layer.timestamp
            for one in self.cri.runtime.ListContainerStats(request).stats
        ):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.kind} has not measured its containers")
            time.sleep(0.1)

    def close(self) -> None:
        self.events.close()
        self.observer.close()
        subprocess.run(
            ["umount", "-R", f"{self.names['volumes']}/shared"], capture_output=True, check=False
        )
        _LOGS.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.node.directory / "server.log", _LOGS / f"{self.kind}.log")
        try:
            self.node.ensure_running()  # nothing else can remove its pods
        finally:
            self.node.close()

    def perform(self, steps: Sequence[Message]) -> list[Answer]:
        """Perform the steps, stopping at the first that fails to make an object.

        Raises RuntimeError if the server of this side has ended: nothing can be compared then.
        """
        made: list[tuple[str, str]] = []
        answers = []
        try:
            for step in steps:
                answers.append(self._step(step, made))
        finally:
            codes = {kind: self._remove(kind, id) for kind, id in reversed(made)}
            left = self._remove_left()
            self._forget_files()
        if (ended := self.node.process.poll()) is not None:
            raise RuntimeError(f"the server of {self.kind} ended with {ended}; see {_LOGS}")
        for step, answer in zip(steps, answers, strict=True):
            if isinstance(step, api_pb2.GetEventsRequest) and answer.code == "OK":
                answer.tree = normal(self.events.of([id for _, id in made]), self._hidden)
        for name in ("pod:new", "container:new"):
            self._hidden.pop(self.names.pop(name, ""), None)
        answers.append(Answer("OK", tree={"codes": codes, "left": left}))
        return answers

    def _forget_files(self) -> None:
        """Remove the cgroups, logs and files in volumes of the pods and containers of a case."""
        cgroups.remove(self._made_cgroups)
        self._made_cgroups = []
        for log in set(Path(self.names["logs"]).rglob("*.*")) - self._shared_logs:
            log.unlink()
        volumes = Path(self.names["volumes"])
        for path in sorted(set(volumes.rglob("*")) - self._shared_files, reverse=True):
            # the mount point of a volume, or a device that was made in one
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()

    def _step(self, step: Message, made: list[tuple[str, str]]) -> Answer:
        rpc = RPCS[type(step).__name__]
        request = self._resolved(step)
        if isinstance(step, api_pb2.GetEventsRequest):
            return Answer(self.events.code)  # those of the whole case are read at its end
        if isinstance(step, api_pb2.RunPodSandboxRequest):
            self._configs["<pod:new>"] = request.config
            self._made_cgroups += cgroups.missing(request.config.linux.cgroup_parent)
        if isinstance(step, api_pb2.CreateContainerRequest):
            # the config that the kubelet repeats; without it, the built-in plugin crashes
            named = step.pod_sandbox_id.partition("|")[0].rstrip(">") + ">"
            config = self._configs.get(named, self._configs["<pod:plain>"])
            request.sandbox_config.CopyFrom(config)
            # a kubelet sends the same modes for the pod and its containers
            modes = config.linux.security_context.namespace_options
            options = request.config.linux.security_context.namespace_options
            if not step.config.linux.security_context.namespace_options.network:
                options.network = modes.network
            if not step.config.linux.security_context.namespace_options.ipc:
                options.ipc = modes.ipc
        if isinstance(step, api_pb2.ReopenContainerLogRequest):
            self._rotate(request.container_id)
        service = self.cri.runtime if rpc.service == "RuntimeService" else self.cri.images
        try:
            response = getattr(service, rpc.name)(request, timeout=_LIMIT)
            parts = list(response) if rpc.streams else [response]
        except grpc.RpcError as error:
            return Answer(error.code().name, text(error.details() or "", self._hidden))
        for kind, field_name in (("pod", "pod_sandbox_id"), ("container", "container_id")):
            id = getattr(parts[0], field_name, "") if parts else ""
            if rpc.name in ("RunPodSandbox", "CreateContainer") and id:
                made.append((kind, id))
                self._name(f"{kind}:new", id)
        tree: dict[str, Any] = {"response": [observe.as_tree(part) for part in parts]}
        if rpc.name == "ContainerStats" and request.container_id == self.names.get("container:new"):
            # only at the next measurement of each server, at a time of its own
            tree["response"][0].get("stats", {}).pop("writable_layer", None)
        if rpc.name == "StartContainer":
            tree |= self._process(self.names.get("container:new", ""))
        if rpc.name == "StopPodSandbox":
            self._wait_until_not_ready(request.pod_sandbox_id)
        if rpc.mutates and made:
            kind, id = made[-1]
            tree[kind] = getattr(self.observer, kind)(id)
        return Answer("OK", tree=normal(tree, self._hidden))

    def _rotate(self, id: str) -> None:
        """Rename a new container's log, as the kubelet does before it asks for a new one."""
        if id == self.names.get("container:new"):
            with contextlib.suppress(grpc.RpcError, FileNotFoundError):
                log = Path(self.cri.status(id).log_path)
                log.replace(log.with_suffix(".rotated"))

    def _wait_until_not_ready(self, pod: str) -> None:
        """The built-in plugin responds before its lists show that the pod was stopped."""
        deadline = time.monotonic() + _LIMIT
        with contextlib.suppress(grpc.RpcError):
            while self.cri.pod_status(pod).state != api_pb2.SANDBOX_NOTREADY:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.02)

    def _process(self, id: str) -> dict[str, Any]:
        """What the probe printed, if the container is one."""
        status = self.cri.status(id)
        deadline = time.monotonic() + 5
        while (
            _is_probe(Path(status.log_path))
            and status.state != api_pb2.CONTAINER_EXITED
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
            status = self.cri.status(id)
        if not _is_probe(log := Path(status.log_path)):
            return {}
        printed = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
        return {"process": observe.process(printed)}

    def _remove(self, kind: str, id: str) -> str:
        """The codes of stopping and removing an object of a case."""
        codes = []
        calls: dict[str, list[Callable[[str], None]]] = {
            "pod": [self.cri.stop_pod, self.cri.remove_pod],
            "container": [self.cri.stop, self.cri.remove],
        }
        for call in calls[kind]:
            try:
                call(id)
                codes.append("OK")
            except grpc.RpcError as error:
                codes.append(error.code().name)
        return ", ".join(codes)

    def _remove_left(self) -> list[str]:
        """Remove what is listed besides the shared objects: a call made it and failed, or its
        removal failed. Returns its names and states."""
        shared = {id for name, id in self.names.items() if not name.endswith(":new")}
        left = []
        with contextlib.suppress(grpc.RpcError):
            containers = self.cri.runtime.ListContainers(api_pb2.ListContainersRequest())
            for container in containers.containers:
                if container.id not in shared:
                    state = api_pb2.ContainerState.Name(container.state)
                    left.append(f"{container.metadata.name} {state}")
                    self._remove("container", container.id)
            for pod in self.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
                if pod.id not in shared:
                    left.append(f"{pod.metadata.name} {api_pb2.PodSandboxState.Name(pod.state)}")
                    self._remove("pod", pod.id)
        return sorted(left)

    def _name(self, name: str, value: str) -> None:
        self.names[name] = value
        self._hidden[value] = f"<{name}>"

    def _resolved(self, message: Message) -> Any:
        """A copy in which names are replaced; ``<name|8>`` is the first eight characters."""

        def value(found: re.Match[str]) -> str:
            length = int(found["length"]) if found["length"] else None
            part = self.names.get(found["name"], found[0])[:length]
            if length:
                self._hidden[part] = found[0]
            return part

        written = text_format.MessageToString(message)
        return text_format.Parse(_NAME.sub(value, written), type(message)())

    def _make_volumes(self, folder: Path) -> None:
        (folder / "dir" / "below").mkdir(parents=True)
        (folder / "file").write_text("file\n")
        (folder / "link").symlink_to("dir")
        (folder / "null").symlink_to("/dev/null")
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"]}
        (folder / "seccomp.json").write_text(json.dumps(profile))
        (folder / "shared").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "shared", folder / "shared"], check=True)
        subprocess.run(["mount", "--make-shared", folder / "shared"], check=True)


def _is_probe(log: Path) -> bool:
    return log.name.startswith("probe")


def _shared_pods() -> Iterator[tuple[str, api_pb2.PodSandboxConfig, str]]:
    """Name, config and handler of the pods that all cases share."""

    def pod(name: str, **fields: Any) -> api_pb2.PodSandboxConfig:
        config = pod_config(name, log_directory=f"<logs>/{name}", **fields)
        config.linux.cgroup_parent = "<cgroup>"
        config.metadata.uid = f"uid-of-{name}"
        return config

    plain = pod("plain", labels={"app": "a", "tier": "x"})
    plain.hostname = ""
    plain.linux.security_context.namespace_options.network = api_pb2.NODE
    yield "plain", plain, ""
    yield "own", pod("own", labels={"app": "b"}, annotations={"passed.example/pod": "1"}), ""
    privileged = pod("privileged", labels={"app": "a"})
    privileged.hostname = ""
    security = privileged.linux.security_context
    security.privileged = True
    security.namespace_options.network = api_pb2.NODE
    security.namespace_options.pid = api_pb2.NODE
    security.namespace_options.ipc = api_pb2.NODE
    yield "privileged", privileged, ""
    yield "based", pod("based", annotations={"passed.example/pod": "1"}), "based"


def _shared_containers() -> Iterator[tuple[str, str, api_pb2.ContainerConfig]]:
    sleep = ("sleep", "2147483647")
    yield "running", "plain", container_config(PLAIN, *sleep, name="running", labels={"app": "a"})
    yield "other", "own", container_config(PLAIN, *sleep, name="other", labels={"app": "b"})
    yield "exited", "plain", container_config(PLAIN, "false", name="exited", labels={"app": "a"})
    yield "created", "plain", container_config(PLAIN, *sleep, name="created")


class Pair:
    """Both nodes on the same containerd package."""

    def __init__(self, containerd: Containerd, url: str):
        self._threads = ThreadPoolExecutor(2)
        self.sides: list[Side] = []
        try:
            for kind in ("builtin", "ours"):
                self.sides.append(Side(kind, containerd, url))
            list(self._threads.map(Side.prepare, self.sides))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(self._threads.shutdown)
            for side in self.sides:
                closing.callback(side.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def differences(self, steps: Sequence[Message]) -> list[Difference]:
        builtin, ours = self._threads.map(lambda side: side.perform(steps), self.sides)
        labels = _labels([RPCS[type(step).__name__].name for step in steps])
        found: list[Difference] = []
        fields = {name for step in steps for name in step.DESCRIPTOR.fields_by_name}
        for label, theirs, own in zip([*labels, "cleanup"], builtin, ours, strict=True):
            found += step_differences(label, theirs, own, fields)
            if theirs.code != own.code:
                break  # later steps find different objects
        return found


def _labels(names: Sequence[str]) -> list[str]:
    """The names; a repeated one is numbered."""
    counts: Counter[str] = Counter()
    labels = []
    for name in names:
        counts[name] += 1
        labels.append(name if counts[name] == 1 else f"{name}_{counts[name]}")
    return labels


def step_differences(
    label: str, builtin: Answer, ours: Answer, fields: Container[str]
) -> Iterator[Difference]:
    """One step's differences: ``refused`` if only we refuse it, ``accepted`` if only we do not.

    ``fields`` are those of the request, by which paths in our message are recognized.
    """
    if builtin.code == ours.code:
        yield from differences(builtin.tree, ours.tree, IDENTITY, label)
    elif builtin.code == "OK":
        named = [re.sub(r"\[[^\]]*\]", "", path) for path in _FIELD.findall(ours.message)]
        known = [path for path in named if path.partition(".")[0] in fields]
        for path in dict.fromkeys(known) or [ours.code]:
            yield Difference(f"{label}.refused[{path}]", "OK", str(ours))
    elif ours.code == "OK":
        yield Difference(f"{label}.accepted", str(builtin), "OK")
    else:
        yield Difference(f"{label}.code", str(builtin), str(ours))
