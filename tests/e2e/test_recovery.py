"""What an earlier server, or the built-in plugin, left is found again; a daemon may come and go.

Here containerd is not the server's child: it outlives the server, and is restarted under it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.leaks import claim
from tests.harness.node import CNI_BIN_DIRS, SERVER, Containerd, containerds, systemd_is_init
from tests.harness.registry import Registry

from .conftest import BUSYBOX, HOST

PAUSE = f"{HOST}/recovery-pause:1"
SLICE = "test.slice"

_DISABLED = (
    '"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"'
)


class Machine:
    """A containerd of its own, with its built-in CRI plugin or with our server beside it."""

    def __init__(self, containerd: Containerd, registry: str) -> None:
        self.containerd = containerd
        self.directory = Path(tempfile.mkdtemp(prefix="cri-", dir="/tmp"))
        self.logs = self.directory / "pods"
        self.cri = Cri(str(self.directory / "cri.sock"))
        self.builtin = Cri(str(self.directory / "containerd.sock"))
        self._bridge = f"crr{os.getpid() % 100000}"
        self._marks = claim(self.directory, bridge=self._bridge, network=self._bridge)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._write_config(registry)

    def start_containerd(self, *, with_cri: bool = False) -> None:
        """Start the daemon; ``with_cri`` leaves its own CRI plugin on."""
        disabled = "" if with_cri else f"disabled_plugins = [{_DISABLED}]\n"
        config = self.directory / "containerd.toml"
        config.write_text(disabled + self._containerd_toml)
        binary = shutil.which("containerd", path=self.containerd.environment()["PATH"])
        self._start("containerd", str(binary), "--config", str(config))
        if with_cri:
            self.builtin.wait_until_ready(20)
            wait_until(lambda: _is_ready(self.builtin))

    def start_server(self) -> None:
        """Start our server on the daemon and wait until it has recovered."""
        config = str(self.directory / "server.toml")
        self._start("server", str(SERVER), "serve", "--config", config)
        self.cri.wait_until_ready(20)

    def end(self, what: str, how: signal.Signals = signal.SIGTERM) -> None:
        """End ``containerd`` or ``server``; pods go on."""
        process = self._running.pop(what)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def clear(self) -> None:
        """Remove every pod by whoever serves, and end both."""
        remove_pods(self.cri if "server" in self._running else self.builtin)
        self._end_all()

    def close(self) -> None:
        """End everything and delete it."""
        self._end_all()
        for pid, command in _processes(str(self.directory)):
            if "containerd-shim" in command:
                os.kill(pid, signal.SIGKILL)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True, check=False)
        if systemd_is_init():  # as the kubelet does with the slices of its pods
            subprocess.run(["systemctl", "stop", SLICE], check=True)
        shutil.rmtree(f"/var/lib/cni/networks/{self._bridge}", ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_all(self) -> None:
        for what in ("server", "containerd"):
            if what in self._running:
                self.end(what)

    def _start(self, what: str, *command: str) -> None:
        with (self.directory / f"{what}.log").open("ab") as log:
            self._running[what] = subprocess.Popen(
                command, env=self.containerd.environment(), stdout=log, stderr=log
            )

    def _write_config(self, registry: str) -> None:
        at = self.directory
        for name in ("net.d", "pods", f"certs.d/{HOST}"):
            (at / name).mkdir(parents=True)
        (at / "certs.d" / HOST / "hosts.toml").write_text(
            f'server = "{registry}"\n[host."{registry}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        (at / "net.d" / "10-test.conflist").write_text(
            f'{{"cniVersion": "1.0.0", "name": "{self._bridge}", "plugins": [{{"type": "bridge", '
            f'"bridge": "{self._bridge}", "isGateway": true, "ipam": {{"type": "host-local", '
            f'"ranges": [[{{"subnet": "10.149.{os.getpid() % 256}.0/24"}}]]}}}}]}}'
        )
        bin_dir = next(d for d in CNI_BIN_DIRS if Path(d, "bridge").exists())
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        options = (
            f'BinaryName = "{self.containerd.runc}"\n'
            f"SystemdCgroup = {str(systemd_is_init()).lower()}\n"
        )
        self._containerd_toml = (
            f'version = 2\nroot = "{at}/root"\nstate = "{at}/state"\n'
            f'[grpc]\naddress = "{at}/containerd.sock"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{at}/opt"\n'
            f'[{cri}]\nrestrict_oom_score_adj = true\nsandbox_image = "{PAUSE}"\n'
            f'[{cri}.cni]\nbin_dir = "{bin_dir}"\nconf_dir = "{at}/net.d"\n'
            f'[{cri}.registry]\nconfig_path = "{at}/certs.d"\n'
            f'[{cri}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
            f"[{cri}.containerd.runtimes.runc.options]\n{options}"
        )
        (at / "server.toml").write_text(
            'log_level = "debug"\n'
            f'listen = "unix://{at}/cri.sock"\nroot = "{at}/root"\nstate = "{at}/state"\n'
            f'[containerd]\naddress = "unix://{at}/containerd.sock"\n'
            f"[containerd.runtimes.runc.options]\n{options}"
            f'[cni]\nbin_dirs = ["{bin_dir}"]\nconf_dir = "{at}/net.d"\n'
            f'[images]\npinned_images.sandbox = "{PAUSE}"\n'
            f'registry.config_path = "{at}/certs.d"\n'
        )


def _is_ready(cri: Cri) -> bool:
    try:
        status = cri.runtime.Status(api_pb2.StatusRequest(), timeout=5).status
    except grpc.RpcError:
        return False
    return all(c.status for c in status.conditions if c.type in ("RuntimeReady", "NetworkReady"))


def _processes(mention: str) -> Iterator[tuple[int, str]]:
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mention in command and int(proc.name) != os.getpid():
            yield int(proc.name), command


@pytest.fixture(scope="module", params=containerds(), ids=lambda containerd: containerd.name)
def machine(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Machine]:
    pause = {"Entrypoint": ["sleep", "2147483647"], "Cmd": []}
    layers = [images.layer_tar(images.busybox_files())]
    images.push(registry.url, "recovery-pause:1", {"amd64": images.image(layers, pause)})
    machine = Machine(request.param, registry.url)
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture
def served(machine: Machine) -> Iterator[Machine]:
    """The machine with our server on it, and no pods before and after."""
    machine.start_containerd()
    machine.start_server()
    machine.cri.pull(BUSYBOX)
    yield machine
    machine.clear()


@pytest.fixture
def idle(machine: Machine) -> Iterator[Machine]:
    """The machine with nothing running, before and after."""
    yield machine
    machine.clear()


def remove_pods(cri: Cri) -> None:
    for pod in cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
        cri.stop_pod(pod.id)
        cri.remove_pod(pod.id)


def started(cri: Cri, machine: Machine, script: str, name: str = "app") -> tuple[str, str]:
    """A running pod and container."""
    spec = pod_config(name=f"pod-{name}", log_directory=str(machine.logs))
    if systemd_is_init():  # without a slice the built-in plugin asks systemd for a path
        spec.linux.cgroup_parent = f"/{SLICE}"
    pod = cri.run_pod(spec)
    container = cri.create(pod, container_config(BUSYBOX, "sh", "-c", script, name=name), spec)
    cri.start(container)
    return pod, container


def log_text(machine: Machine, name: str) -> str:
    return (machine.logs / f"{name}.log").read_text()


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


TICK = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done"
WAIT_FOR_FILE = "while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 7"


def test_a_daemon_that_comes_back_is_no_exit(served: Machine) -> None:
    pod, container = started(served.cri, served, TICK)
    _, waiting = started(served.cri, served, WAIT_FOR_FILE, name="waiting")
    served.end("containerd", signal.SIGKILL)
    time.sleep(0.5)
    served.start_containerd()
    served.cri.wait_until_ready(20)
    seen = len(log_text(served, "app"))
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert served.cri.pod_status(pod).state == api_pb2.SANDBOX_READY
    wait_until(lambda: len(log_text(served, "app")) > seen)
    served.cri.exec_sync(waiting, "touch", "/tmp/end")
    status = served.cri.wait_for_state(waiting, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (7, "Error")


def test_an_exit_while_the_daemon_is_away_is_not_missed(served: Machine) -> None:
    _, container = started(served.cri, served, "sleep 1; exit 9")
    served.end("containerd", signal.SIGKILL)
    time.sleep(1.5)
    served.start_containerd()
    served.cri.wait_until_ready(20)
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    # containerd 1.7 and later delete tasks that ended before they load them, with their codes
    assert (status.exit_code, status.reason) in ((9, "Error"), (255, "Unknown"))


def test_an_exit_while_the_server_is_away_has_its_code_and_log(served: Machine) -> None:
    _, container = started(served.cri, served, "sleep 1; echo last words; exit 9")
    served.end("server", signal.SIGKILL)
    time.sleep(1.5)
    served.start_server()
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (9, "Error")
    assert "last words" in log_text(served, "app")
    assert status.started_at < status.finished_at < time.time_ns() - 10**8


def test_a_dead_shim_is_an_exit_that_nobody_saw(served: Machine) -> None:
    pod, container = started(served.cri, served, TICK)
    for pid, command in _processes(str(served.directory)):
        if "containerd-shim" in command and pod in command:
            os.kill(pid, signal.SIGKILL)
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert status.exit_code in (137, 255)
    wait_until(lambda: served.cri.pod_status(pod).state == api_pb2.SANDBOX_NOTREADY)
    served.cri.stop_pod(pod)
    served.cri.remove_pod(pod)


def test_states_survive_the_server(served: Machine) -> None:
    spec = pod_config(log_directory=str(served.logs))
    pod = served.cri.run_pod(spec)
    created = served.cri.create(pod, container_config(BUSYBOX, "true", name="created"), spec)
    exited = served.cri.create(pod, container_config(BUSYBOX, "false", name="exited"), spec)
    served.cri.start(exited)
    before = served.cri.wait_for_state(exited, api_pb2.CONTAINER_EXITED)
    stopped, _ = started(served.cri, served, TICK, name="stopped")
    served.cri.stop_pod(stopped)
    status = served.cri.pod_status(pod)
    served.end("server")
    served.start_server()
    assert served.cri.pod_status(pod) == status
    assert served.cri.status(exited) == before
    assert served.cri.pod_status(stopped).state == api_pb2.SANDBOX_NOTREADY
    assert served.cri.status(created).state == api_pb2.CONTAINER_CREATED
    served.cri.start(created)
    assert served.cri.wait_for_state(created, api_pb2.CONTAINER_EXITED).exit_code == 0


def test_pods_of_the_built_in_plugin_are_taken_over(idle: Machine) -> None:
    idle.start_containerd(with_cri=True)
    idle.builtin.pull(BUSYBOX)
    pod, container = started(idle.builtin, idle, TICK, name="before")
    _, waiting = started(idle.builtin, idle, WAIT_FOR_FILE, name="waiting-before")
    before = idle.builtin.pod_status(pod)
    idle.end("containerd")
    idle.start_containerd()
    idle.start_server()
    after = idle.cri.pod_status(pod)
    assert after.state == api_pb2.SANDBOX_READY
    assert (after.network, after.metadata) == (before.network, before.metadata)
    assert idle.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    seen = len(log_text(idle, "before"))
    wait_until(lambda: len(log_text(idle, "before")) > seen)
    idle.cri.exec_sync(waiting, "touch", "/tmp/end")
    status = idle.cri.wait_for_state(waiting, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (7, "Error")
    remove_pods(idle.cri)


def test_pods_of_ours_are_taken_over_by_the_built_in_plugin(idle: Machine) -> None:
    idle.start_containerd()
    idle.start_server()
    idle.cri.pull(BUSYBOX)
    pod, container = started(idle.cri, idle, TICK, name="ours")
    before = idle.cri.pod_status(pod)
    idle.end("server")
    idle.end("containerd")
    idle.start_containerd(with_cri=True)
    after = idle.builtin.pod_status(pod)
    assert after.state == api_pb2.SANDBOX_READY
    assert (after.network, after.metadata) == (before.network, before.metadata)
    assert idle.builtin.status(container).state == api_pb2.CONTAINER_RUNNING
    remove_pods(idle.builtin)
