"""A machine whose containerd outlives our server, and is restarted under it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from generated.containerd import (
    containers_pb2,
    containers_pb2_grpc,
    task_types_pb2,
    tasks_pb2,
    tasks_pb2_grpc,
)
from generated.cri import api_pb2

from . import cni_recorder
from .cri import Cri, container_config, pod_config
from .leaks import Holdings, claim
from .node import CNI_BIN_DIRS, SERVER, Containerd, compile_server, systemd_is_init
from .waiting import PATIENCE, wait_until

SLICE = "test.slice"

_RUNC_ROOT = "/run/containerd/runc/k8s.io"
"""Where runc keeps its state: in every command that the shim gives it."""

_DISABLED = (
    '"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"'
)

_RUNC = """#!/bin/sh
# runc, whose command that the file beside it names waits until that file is deleted
command=$(cat {held} 2>/dev/null)
for word in "$@"; do
  if [ "$word" = "$command" ]; then
    touch {arrived}
    while [ -e {held} ]; do sleep 0.02; done
  fi
done
exec {runc} "$@"
"""


class Machine:
    """A containerd of its own, with its built-in CRI plugin or with our server on it."""

    def __init__(
        self, containerd: Containerd, *, host: str, registry: str, pause: str, image: str
    ) -> None:
        """``pause`` and ``image`` are references at ``host``, whose mirror is ``registry``."""
        self.containerd = containerd
        self.image = image
        self.directory = Path(tempfile.mkdtemp(prefix="cri-", dir="/tmp"))
        self.logs = self.directory / "pods"
        self.cri = Cri(str(self.directory / "cri.sock"))
        self.builtin = Cri(str(self.directory / "containerd.sock"))
        self._bridge = f"crr{os.getpid() % 100000}"
        self.marks = claim(self.directory, bridge=self._bridge, network=self._bridge)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._with_cri = False
        self._write_config(host, registry, pause)

    def start_containerd(self, *, with_cri: bool = False) -> None:
        """Start the daemon; ``with_cri`` leaves its own CRI plugin on."""
        self._with_cri = with_cri
        disabled = "" if with_cri else f"disabled_plugins = [{_DISABLED}]\n"
        config = self.directory / "containerd.toml"
        config.write_text(disabled + self._containerd_toml)
        binary = shutil.which("containerd", path=self.containerd.environment()["PATH"])
        self._start("containerd", str(binary), "--config", str(config))
        if with_cri:
            self.builtin.wait_until_ready()
            wait_until(lambda: _is_ready(self.builtin))

    def start_server(self) -> None:
        """Start our server on the daemon and wait until it has recovered."""
        config = str(self.directory / "server.toml")
        self._start("server", str(SERVER), "serve", "--config", config)
        self.cri.wait_until_ready()

    def end(self, what: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop ``containerd`` or ``server``; pods keep running."""
        self.begin_to_end(what, how)
        process = self._running.pop(what)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def begin_to_end(self, what: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Send ``containerd`` or ``server`` a signal without waiting for its end."""
        self._running[what].send_signal(how)

    def clear(self) -> None:
        """Remove every pod with its logs through the running server, and stop both.

        What a failed test has stopped works again for that.
        """
        try:
            if not self.is_running("containerd"):
                self.start_containerd()
            if self._with_cri and not self.is_running("server"):
                remove_pods(self.builtin)
                return
            if not self.is_running("server"):
                self.start_server()
            self.cri.wait_until_ready()
            remove_pods(self.cri)
        finally:
            self._end_all()
            for log in self.logs.iterdir():
                log.unlink()

    def begin_server(self) -> None:
        """Start our server without waiting for it."""
        config = str(self.directory / "server.toml")
        self._start("server", str(SERVER), "serve", "--config", config)

    def server_ended(self) -> int:
        """The exit status of a server that exited, or was told to."""
        return self._running.pop("server").wait(PATIENCE)

    def is_running(self, what: str) -> bool:
        """Whether ``containerd`` or ``server`` runs."""
        return what in self._running and self._running[what].poll() is None

    def log(self) -> str:
        """The log of our servers."""
        return (self.directory / "server.log").read_text(errors="replace")

    @contextlib.contextmanager
    def held_runc(self, command: str = "create") -> Iterator[Callable[[], bool]]:
        """Let ``runc create``, or another command, wait until the end of the block.

        The block gets a function that says whether such a command waits.
        """
        self._arrived.unlink(missing_ok=True)
        self._held.write_text(command)
        try:
            yield self._arrived.exists
        finally:
            self._held.unlink()

    @contextlib.contextmanager
    def recorded_network(self, **config: Any) -> Iterator[Path]:
        """Let pods have the network of a recorder (`tests.harness.cni_recorder`) with this config,
        from the next start of the server on; gives the file of its records."""
        record = self.directory / "cni-calls"
        plugin = {"type": "recorder", "record": str(record), **config}
        networks = self.directory / "net.d"
        cni_recorder.install(self.directory / "bin", ["recorder"])
        file = networks / "00-recorder.conflist"
        file.write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "recorded", "plugins": [plugin]})
        )
        try:
            yield record
        finally:
            file.unlink()

    def shim(self, pod: str) -> int:
        """The process of the pod's shim."""
        (pid,) = (
            pid
            for pid, command in processes(str(self.directory))
            if "containerd-shim" in command and f"-id {pod}" in command
        )
        return pid

    def first_process(self, container: str) -> int:
        """The first process of a running container, by its PID on the node."""
        request = api_pb2.ContainerStatusRequest(container_id=container, verbose=True)
        return int(json.loads(self.cri.runtime.ContainerStatus(request).info["info"])["pid"])

    def task_has_ended(self, container: str) -> bool:
        """Whether containerd says that the container's process has exited, with code and time."""
        socket = self.directory / "containerd.sock"
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            answer = tasks_pb2_grpc.TasksStub(channel).Get(
                tasks_pb2.GetRequest(container_id=container),
                metadata=[("containerd-namespace", "k8s.io")],
            )
        return bool(answer.process.status == task_types_pb2.STOPPED)

    def damage_record(self, object_id: str) -> None:
        """Replace what this server wrote into containerd's record of a pod or container."""
        socket = self.directory / "containerd.sock"
        namespace = [("containerd-namespace", "k8s.io")]
        with grpc.insecure_channel(f"unix://{socket}") as channel:
            stub = containers_pb2_grpc.ContainersStub(channel)
            record = stub.Get(
                containers_pb2.GetContainerRequest(id=object_id), metadata=namespace
            ).container
            for extension in record.extensions.values():
                extension.value = b"{"
            stub.Update(containers_pb2.UpdateContainerRequest(container=record), metadata=namespace)

    def bundle(self, container: str) -> Path:
        """The directory in which containerd keeps the container's task."""
        return self.directory / "state/io.containerd.runtime.v2.task/k8s.io" / container

    def holdings(self) -> Holdings:
        """What the machine holds on the node: processes, mounts, namespaces, cgroups."""
        return Holdings.of([self.marks])

    def runc_commands(self) -> list[str]:
        """The running commands of runc, those that are held included."""
        return [command for _, command in processes(str(self.directory)) if _RUNC_ROOT in command]

    def runc_states(self) -> set[str]:
        """The containers of this machine that runc has state of."""
        states = {path.name for path in Path(_RUNC_ROOT).glob("*")}
        return states & self.marks.names()

    def _runc(self) -> Path:
        wrapper = self.directory / "runc"
        self._held = self.directory / "runc.held"
        self._arrived = self.directory / "runc.arrived"
        wrapper.write_text(
            _RUNC.format(held=self._held, arrived=self._arrived, runc=self.containerd.runc)
        )
        wrapper.chmod(0o755)
        return wrapper

    def close(self) -> None:
        """Stop everything and delete it."""
        self._end_all()
        for pid, command in processes(str(self.directory)):
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
        compile_server()
        with (self.directory / f"{what}.log").open("ab") as log:
            self._running[what] = subprocess.Popen(
                command, env=self.containerd.environment(), stdout=log, stderr=log
            )

    def _write_config(self, host: str, registry: str, pause: str) -> None:
        at = self.directory
        for name in ("net.d", "pods", f"certs.d/{host}"):
            (at / name).mkdir(parents=True)
        (at / "certs.d" / host / "hosts.toml").write_text(
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
            f'BinaryName = "{self._runc()}"\n' f"SystemdCgroup = {str(systemd_is_init()).lower()}\n"
        )
        self._containerd_toml = (
            f'version = 2\nroot = "{at}/root"\nstate = "{at}/state"\n'
            f'[grpc]\naddress = "{at}/containerd.sock"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{at}/opt"\n'
            f'[{cri}]\nrestrict_oom_score_adj = true\nsandbox_image = "{pause}"\n'
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
            f'[cni]\nbin_dirs = ["{bin_dir}", "{at}/bin"]\nconf_dir = "{at}/net.d"\n'
            f'[images]\npinned_images.sandbox = "{pause}"\n'
            f'registry.config_path = "{at}/certs.d"\n'
        )


def _is_ready(cri: Cri) -> bool:
    try:
        status = cri.runtime.Status(api_pb2.StatusRequest(), timeout=5).status
    except grpc.RpcError:
        return False
    return all(c.status for c in status.conditions if c.type in ("RuntimeReady", "NetworkReady"))


def processes(mention: str) -> Iterator[tuple[int, str]]:
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mention in command and int(proc.name) != os.getpid():
            yield int(proc.name), command


def remove_pods(cri: Cri) -> None:
    for pod in cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
        cri.stop_pod(pod.id)
        cri.remove_pod(pod.id)


def started(
    cri: Cri, machine: Machine, script: str, name: str = "app", **fields: Any
) -> tuple[str, str]:
    """A running pod and container, with these fields in the container's config."""
    spec = pod_config(name=f"pod-{name}", log_directory=str(machine.logs))
    if systemd_is_init():  # without a slice the built-in plugin asks systemd for a path
        spec.linux.cgroup_parent = f"/{SLICE}"
    pod = cri.run_pod(spec)
    container = cri.create(
        pod, container_config(machine.image, "sh", "-c", script, name=name, **fields), spec
    )
    cri.start(container)
    return pod, container


def log_text(machine: Machine, name: str) -> str:
    return (machine.logs / f"{name}.log").read_text()
