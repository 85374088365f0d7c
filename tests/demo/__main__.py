"""``./dev demo``: drives one pod through the architecture, as the kubelet would."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from generated.cri import api_pb2
from tests.harness import images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.leaks import Holdings
from tests.harness.node import Node
from tests.harness.registry import Registry
from tests.harness.streams import connected, forward, ports

IMAGE = "demo.example/hello:1"
MEMORY = 64 << 20  # bytes
WEB_PORT = 8080
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


class Narrator:
    """Prints one line per call with its time, and below it the result."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def chapter(self, text: str) -> None:
        print(f"\n{paint('1;36', text)}")

    @contextmanager
    def step(self, call: str, what: str) -> Iterator[Callable[[str, object], None]]:
        results: list[tuple[str, object]] = []
        started = time.monotonic()
        yield lambda name, value: results.append((name, value))
        took = (time.monotonic() - started) * 1000
        print(f"  {paint('32', '✓')} {paint('1', f'{call:<20}')} {what:<62} {took:7.0f} ms")
        for name, value in results:
            print(f"      {paint('2', f'{name:<12}')} {value}")


def what_is_missing() -> list[str]:
    """What this machine lacks for the demo, with the remedy."""
    missing = []
    if os.geteuid() != 0:
        missing.append("not root: namespaces, mounts and cgroups need it. Run: sudo ./dev demo")
    for program in ("containerd", "runc", "docker-registry", "ip"):
        if not shutil.which(program):
            missing.append(f"no {program} on PATH. Run: ./dev setup")
    if not any(Path(d, "bridge").exists() for d in ("/opt/cni/bin", "/usr/lib/cni")):
        missing.append("no CNI plugins in /opt/cni/bin or /usr/lib/cni. Run: ./dev setup")
    if not re.search(r"\boverlay$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        missing.append("the kernel lacks overlayfs. Run: modprobe overlay")
    for namespace in ("net", "pid", "mnt", "ipc", "uts"):
        if not Path(f"/proc/self/ns/{namespace}").exists():
            missing.append(f"the kernel lacks {namespace} namespaces")
    return missing


def cgroup_of(pid: int) -> str:
    """The memory cgroup of a process, or the unified one if there is none."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    by_controller = {controllers: path for _, controllers, path in lines}
    return by_controller.get("memory") or by_controller[""]


def namespace_of(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def shared_namespaces(pid: int, other: int) -> str:
    kinds = ("net", "ipc", "uts", "pid", "mnt")
    same = [k for k in kinds if namespace_of(pid, k) == namespace_of(other, k)]
    return f"{', '.join(same)}   (own: {', '.join(k for k in kinds if k not in same)})"


def verbose_pid(info: str) -> int:
    found = re.search(r'"pid":\s*(\d+)', info)
    assert found, f"verbose info names no pid: {info}"
    return int(found[1])


def walk(cri: Cri, node: Node, tell: Narrator) -> None:
    tell.chapter("1  The kubelet looks at the runtime")
    with tell.step("Version", "who is there?") as result:
        version = cri.runtime.Version(api_pb2.VersionRequest())
        result("runtime", f"{version.runtime_name}, on containerd {version.runtime_version}")
    with tell.step("Status", "is it ready, and the network?") as result:
        for condition in cri.runtime.Status(api_pb2.StatusRequest()).status.conditions:
            result(condition.type, f"{condition.status} {condition.reason} {condition.message}")

    tell.chapter("2  A pod: namespaces, a pause container, a network")
    config = pod_config("demo", log_directory=str(node.logs))
    config.linux.cgroup_parent = node.cgroup_parent  # as the kubelet does, which also removes it
    with tell.step(
        "RunPodSandbox", "netns and pause container, with CNI ADD beside them"
    ) as result:
        pod = cri.run_pod(config)
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=True)
        answer = cri.runtime.PodSandboxStatus(request)
        pause = verbose_pid(answer.info["info"])
        result("pod", pod[:13])
        result("pod IP", answer.status.network.ip)
        result("pause", f"pid {pause}, cgroup {cgroup_of(pause)}")
        result("netns", namespace_of(pause, "net"))

    tell.chapter("3  An image, from a registry into containerd")
    with tell.step("PullImage", f"{IMAGE}: resolve, fetch, unpack") as result:
        digest = cri.pull(IMAGE)
        status = cri.images.ImageStatus(
            api_pb2.ImageStatusRequest(image=api_pb2.ImageSpec(image=IMAGE))
        ).image
        result("image id", digest)
        result("digest", status.repo_digests[0].partition("@")[2])
        result("size", f"{status.size / 1e6:.2f} MB compressed")

    tell.chapter("4  A container inside the pod")
    container = container_config(
        IMAGE, "sh", "-c", f"echo hello from $HOSTNAME; exec httpd -f -h /etc -p {WEB_PORT}"
    )
    container.linux.resources.memory_limit_in_bytes = MEMORY
    container.envs.add(key="GREETING", value=b"hi")
    with tell.step("CreateContainer", "snapshot and OCI spec, built from spec/mapping") as result:
        app = cri.create(pod, container, config)
        result("container", app[:13])
    with tell.step(
        "StartContainer", "task created and started, output to the log keeper"
    ) as result:
        cri.start(app)
        answer = cri.runtime.ContainerStatus(
            api_pb2.ContainerStatusRequest(container_id=app, verbose=True)
        )
        pid = verbose_pid(answer.info["info"])
        result("pid", pid)
        result("cgroup", cgroup_of(pid))
        result("with pause", shared_namespaces(pid, pause))

    tell.chapter("5  Look inside")
    with tell.step("ExecSync", "ip -o -4 addr show eth0; env") as result:
        answer = cri.exec_sync(app, "sh", "-c", "ip -o -4 addr show eth0; echo GREETING=$GREETING")
        for line in answer.stdout.decode().splitlines():
            result("stdout", line.strip())
    with tell.step(
        "(field)", "CreateContainer.…memory_limit_in_bytes, in the kernel's words"
    ) as result:
        result("cgroup", f"{memory_limit(pid)} bytes (asked for {MEMORY})")
    with tell.step("(log file)", "what `kubectl logs` reads") as result:
        result("log", (node.logs / container.log_path).read_text().strip())
    with tell.step(
        "Exec", "`kubectl exec -it`: a shell on a terminal, over WebSocket v5"
    ) as result:
        for line in asyncio.run(typed_into_a_shell(cri, app)):
            result("terminal", line)
    with tell.step(
        "PortForward", "`kubectl port-forward`: to a port of the pod, over SPDY"
    ) as result:
        result("answer", asyncio.run(fetched_through_a_forward(cri, pod)))
    with tell.step("ListContainers", "the kubelet's relist") as result:
        for one in cri.runtime.ListContainers(api_pb2.ListContainersRequest()).containers:
            state = api_pb2.ContainerState.Name(one.state)
            result("container", f"{one.id[:13]} {one.metadata.name} {state}")

    tell.chapter("6  And away with it")
    with tell.step("StopContainer", "SIGTERM, SIGKILL after 1 s") as result:
        cri.stop(app, 1)
        status = cri.status(app)
        result("exit", f"code {status.exit_code}, reason {status.reason}")
    with tell.step("RemoveContainer", "snapshot, record and files"):
        cri.remove(app)
    with tell.step("StopPodSandbox", "kill pause, with CNI DEL beside it"):
        cri.stop_pod(pod)
    with tell.step("RemovePodSandbox", "lease, snapshot, record and files"):
        cri.remove_pod(pod)
    with tell.step("RemoveImage", IMAGE):
        cri.images.RemoveImage(api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=IMAGE)))


async def typed_into_a_shell(cri: Cri, container: str) -> list[str]:
    """The output of a terminal while two commands are typed."""
    request = api_pb2.ExecRequest(
        container_id=container, cmd=["sh"], stdin=True, stdout=True, tty=True
    )
    url = cri.runtime.Exec(request).url
    async with connected(url, "websocket") as terminal:
        await terminal.send("resize", b'{"Width":72,"Height":20}')
        await terminal.until(lambda: b"# " in terminal.received["stdout"])
        await terminal.send("stdin", b"stty size\n")
        await terminal.until(lambda: b"20 72" in terminal.received["stdout"])
        await terminal.send("stdin", b"exit 3\n")
        await terminal.gone()
        shown = terminal.received["stdout"].decode()
        return [*as_shown(shown), f"exit code {terminal.exit_code}"]


def as_shown(output: str) -> list[str]:
    """The lines of a terminal's final content.

    A shell that learns its terminal's size while it prompts prints the prompt again over the first
    one.
    """
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    return [line.rpartition("\r")[2] for line in plain.split("\r\n")]


async def fetched_through_a_forward(cri: Cri, pod: str) -> str:
    """The first line of the pod's web server."""
    url = cri.runtime.PortForward(api_pb2.PortForwardRequest(pod_sandbox_id=pod)).url
    async with ports(url) as streams:
        data, _ = await forward(streams, WEB_PORT, 1)
        await streams.send(data, b"GET /hosts HTTP/1.0\r\n\r\n")
        await streams.all_ended((data,))
        return streams.received[data].decode().splitlines()[0]


def memory_limit(pid: int) -> str:
    cgroup = cgroup_of(pid)
    candidates = (
        f"/sys/fs/cgroup/memory{cgroup}/memory.limit_in_bytes",
        f"/sys/fs/cgroup{cgroup}/memory.max",
    )
    return next(Path(p).read_text().strip() for p in candidates if Path(p).exists())


def main() -> int:
    missing = what_is_missing()
    if missing:
        print("The demo cannot run here:", *(f"  - {line}" for line in missing), sep="\n")
        return 1
    tell = Narrator()
    before = Holdings.now()
    print(paint("1", "cri-containerd: a pod's way from the kubelet's call to a running container"))
    tell.chapter("0  A node: a registry, a private containerd, this CRI server on top")
    registry_files = Path(f"/tmp/cri-demo-{os.getpid()}")
    try:
        with tell.step("(registry)", "docker-registry with one image of busybox") as result:
            registry = Registry(registry_files)
            image = images.image([images.layer_tar(images.busybox_files())])
            images.push(registry.url, "hello:1", {"amd64": image})
            result("listens on", registry.url)
        with tell.step("cri-containerd", "serve --embedded") as result:
            node = Node(
                registry_mirrors={"demo.example": registry.url},
                cgroup_parent=f"cri_demo_{os.getpid()}",
            )
            result("socket", node.socket)
        try:
            walk(node.cri, node, tell)
        except grpc.RpcError as error:
            print(paint("31", f"  ✗ {error.code().name}: {error.details()}"))
            print(node.log()[-4000:])
            return 1
        finally:
            node.close()
            registry.close()
    finally:
        shutil.rmtree(registry_files, ignore_errors=True)

    tell.chapter("7  Proof that nothing is left")
    left = Holdings.now().since(before)
    for kind in (field.name for field in dataclasses.fields(Holdings)):
        names = left.get(kind, [])
        mark = paint("31", "✗") if names else paint("32", "✓")
        print(f"  {mark} {kind.replace('_', ' '):<20} {len(names)} left {' '.join(names)}")
    print(f"\n{paint('1', f'{time.monotonic() - tell.began:.1f} s in all')}")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
