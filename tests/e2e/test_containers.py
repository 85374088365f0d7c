"""Containers beyond the basic walk: concurrent stops, cancelled commands, failures that leave
nothing."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import containerd_objects, images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.registry import Registry
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX, HOST

APP = f"{HOST}/app:1"
"""An image with users, a volume and a stop signal."""


@dataclass(frozen=True)
class Pod:
    """A running pod, and what most tests do in it."""

    cri: Cri
    node: Node
    id: str
    config: api_pb2.PodSandboxConfig

    def created(self, *command: str, image: str = BUSYBOX, **fields: Any) -> str:
        config = container_config(image, *command, **fields)
        return self.cri.create(self.id, config, self.config)

    def running(self, *command: str, image: str = BUSYBOX, **fields: Any) -> str:
        container = self.created(*command, image=image, **fields)
        self.cri.start(container)
        return container

    def directory(self, container: str, below: str = "root") -> Path:
        return self.node.directory / below / "io.containerd.grpc.v1.cri/containers" / container


@pytest.fixture(scope="session", autouse=True)
def app_image(registry: Registry) -> None:
    files: dict[str, bytes | str | None] = {
        **images.busybox_files(),
        "etc/passwd": b"root:x:0:0::/:\nweb:x:1000:1001::/:\n",
        "etc/group": b"root:x:0:\nweb:x:1001:\nlogs:x:50:web\n",
        "data": None,
        "data/seed": b"from the image",
    }
    config = {"Volumes": {"/data": {}}, "User": "web", "StopSignal": "SIGUSR1"}
    image = images.image([images.layer_tar(files)], config)
    images.push(registry.url, "app:1", {"amd64": image})


@pytest.fixture
def pod(cri: Cri, node: Node) -> Iterator[Pod]:
    config = pod_config(log_directory=str(node.logs))
    yield Pod(cri, node, cri.run_pod(config), config)


def refused(code: grpc.StatusCode, call: Callable[[], object]) -> str:
    """Make the call, which must be refused with ``code``; returns the message."""
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() is code, error.value
    return str(error.value.details())


# Stopping


def test_the_signal_of_the_request_wins_over_that_of_the_image(pod: Pod) -> None:
    pod.cri.pull(APP)
    script = "trap 'exit 31' USR1; trap 'exit 32' INT; echo ready; while :; do sleep 0.05; done"
    by_image = pod.running("sh", "-c", script, image=APP, name="a")
    by_request = pod.running("sh", "-c", script, image=APP, name="b", stop_signal=api_pb2.SIGINT)
    for name in ("a", "b"):
        wait_for_log(pod, name, "ready")
    for container in (by_image, by_request):
        pod.cri.stop(container, int(PATIENCE))
    assert pod.cri.status(by_image).exit_code == 31
    assert pod.cri.status(by_image).stop_signal == api_pb2.SIGUSR1
    assert pod.cri.status(by_request).exit_code == 32


def test_a_shorter_timeout_ends_a_longer_stop(pod: Pod) -> None:
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    container = pod.running("sh", "-c", script)
    wait_for_log(pod, "app", "ready")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        long = pool.submit(pod.cri.stop, container, int(PATIENCE))
        time.sleep(0.3)
        pool.submit(pod.cri.stop, container, 1).result()
        long.result()
    assert time.monotonic() - began < PATIENCE / 2
    assert pod.cri.status(container).exit_code == 137


def test_the_signal_is_sent_once(pod: Pod) -> None:
    script = (
        "n=0; trap 'n=$((n+1)); echo got $n' TERM; trap 'echo later' USR1; echo ready;"
        "while :; do sleep 0.05; done"
    )
    container = pod.running("sh", "-c", script)
    wait_for_log(pod, "app", "ready")
    request = api_pb2.StopContainerRequest(container_id=container, timeout=600)
    first = pod.cri.runtime.StopContainer.future(request)
    wait_for_log(pod, "app", "got 1")
    first.cancel()
    refused(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda: pod.cri.runtime.StopContainer(request, timeout=1),
    )
    # a client that gave up kills nothing
    assert pod.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert pod.cri.exec_sync(container, "kill", "-USR1", "1").exit_code == 0
    wait_for_log(pod, "app", "later")  # a signal before this one would be in the log
    assert log_text(pod, "app").count("got") == 1


def test_a_frozen_container_can_be_killed(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    request = api_pb2.ContainerStatusRequest(container_id=container, verbose=True)
    pid = json.loads(pod.cri.runtime.ContainerStatus(request).info["info"])["pid"]
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    freezer = next((path for _, name, path in lines if name == "freezer"), None)
    if freezer is None:
        pytest.skip("cgroup v2 kills frozen processes by itself")
    state = Path("/sys/fs/cgroup/freezer", freezer.lstrip("/"), "freezer.state")
    state.write_text("FROZEN")
    wait_until(lambda: state.read_text() == "FROZEN\n")
    pod.cri.stop(container)
    assert pod.cri.status(container).exit_code == 137


def test_a_container_in_the_pods_pid_namespace_stops(pod: Pod) -> None:
    config = container_config(BUSYBOX, "sh", "-c", "sleep 1000 & exec sleep 1000")
    config.linux.security_context.namespace_options.pid = api_pb2.POD
    container = pod.cri.create(pod.id, config, pod.config)
    pod.cri.start(container)
    waits = pod.node.log().count("output not drained")
    pod.cri.stop(container, 0)
    assert pod.node.log().count("output not drained") == waits


# Removing


def test_a_running_container_is_removed_by_force(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    assert pod.directory(container).is_dir()
    pod.cri.remove(container)
    refused(grpc.StatusCode.NOT_FOUND, lambda: pod.cri.status(container))
    assert not pod.directory(container).exists()
    assert not pod.directory(container, "state").exists()
    # its name is free again
    pod.cri.remove(pod.created("true"))


def test_a_name_is_reserved_while_its_container_exists(pod: Pod) -> None:
    container = pod.created("true")
    said = refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.created("true"))
    assert container in said


def test_the_shim_ends_with_the_last_task_of_its_pod(pod: Pod) -> None:
    for name in ("a", "b", "c"):
        pod.running("sleep", "1000", name=name)
    assert shims(pod)
    pod.cri.stop_pod(pod.id)
    pod.cri.remove_pod(pod.id)
    wait_until(lambda: not shims(pod))


def test_the_shim_of_a_pod_whose_pause_container_died_ends_too(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    info = pod.cri.runtime.PodSandboxStatus(request).info["info"]
    os.kill(json.loads(info)["pid"], signal.SIGKILL)
    wait_until(lambda: pod.cri.pod_status(pod.id).state == api_pb2.SANDBOX_NOTREADY)
    assert pod.cri.status(container).state == api_pb2.CONTAINER_RUNNING
    pod.cri.stop_pod(pod.id)
    pod.cri.remove_pod(pod.id)
    wait_until(lambda: not shims(pod))


# Creating


def test_user_and_groups_come_from_the_image(pod: Pod) -> None:
    pod.cri.pull(APP)
    container = pod.running("sleep", "1000", image=APP)
    assert pod.cri.exec_sync(container, "id", "-u").stdout == b"1000\n"
    assert pod.cri.exec_sync(container, "id", "-G").stdout.split() == [b"1001", b"50"]
    user = pod.cri.status(container).user.linux
    assert (user.uid, user.gid, list(user.supplemental_groups)) == (1000, 1001, [50, 1001])


def test_a_volume_of_the_image_has_its_content(pod: Pod) -> None:
    pod.cri.pull(APP)
    container = pod.running("sleep", "1000", image=APP)
    seen = pod.cri.exec_sync(container, "cat", "/data/seed")
    assert seen.stdout == b"from the image"
    assert b" /data " in pod.cri.exec_sync(container, "cat", "/proc/mounts").stdout


def test_mount_sources_are_created_and_resolved(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("here")
    (tmp_path / "link").symlink_to("real")
    mounts = [
        api_pb2.Mount(host_path=str(tmp_path / "link"), container_path="/a", readonly=True),
        api_pb2.Mount(host_path=str(tmp_path / "missing/deep"), container_path="/b"),
    ]
    container = pod.running("sleep", "1000", mounts=mounts)
    assert pod.cri.exec_sync(container, "cat", "/a/file").stdout == b"here"
    assert pod.cri.exec_sync(container, "touch", "/a/no").exit_code != 0
    assert pod.cri.exec_sync(container, "touch", "/b/yes").exit_code == 0
    assert (tmp_path / "missing/deep/yes").exists()


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        pytest.param(
            {"image": "nowhere.example/nothing:1"},
            grpc.StatusCode.NOT_FOUND,
            "pull it first",
            id="image",
        ),
        pytest.param(
            {
                "linux": api_pb2.LinuxContainerConfig(
                    security_context=api_pb2.LinuxContainerSecurityContext(
                        run_as_username="nobody-here"
                    )
                )
            },
            grpc.StatusCode.INVALID_ARGUMENT,
            "no user 'nobody-here'",
            id="user",
        ),
        pytest.param(
            {"devices": [api_pb2.Device(host_path="/etc/passwd", permissions="r")]},
            grpc.StatusCode.INVALID_ARGUMENT,
            r"config.devices[0].host_path",
            id="device",
        ),
        pytest.param(
            {
                "linux": api_pb2.LinuxContainerConfig(
                    security_context=api_pb2.LinuxContainerSecurityContext(
                        seccomp=api_pb2.SecurityProfile(
                            profile_type=api_pb2.SecurityProfile.Localhost,
                            localhost_ref="/no/such/profile.json",
                        )
                    )
                )
            },
            grpc.StatusCode.INVALID_ARGUMENT,
            "/no/such/profile.json",
            id="seccomp",
        ),
    ],
)
def test_a_creation_that_fails_leaves_nothing(
    pod: Pod, changes: dict[str, Any], code: grpc.StatusCode, says: str
) -> None:
    held = containerd_objects.of(pod.node)
    said = refused(code, lambda: pod.created("true", **changes))
    assert says in said
    assert containerd_objects.of(pod.node) == held
    assert list(pod.directory("").iterdir()) == []
    assert list(pod.directory("", "state").iterdir()) == []
    # the name was freed
    pod.created("true")


def test_a_pod_that_was_stopped_takes_no_containers(pod: Pod) -> None:
    waiting = pod.created("true", name="waiting")
    pod.cri.stop_pod(pod.id)
    refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.created("true"))
    refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.cri.start(waiting))
    # as with the built-in plugin
    status = pod.cri.status(waiting)
    assert (status.state, status.exit_code) == (api_pb2.CONTAINER_EXITED, 128)
    assert status.reason == "StartError"


def test_a_target_container_shares_its_processes(pod: Pod) -> None:
    target = pod.running("sleep", "12345", name="target")
    config = container_config(BUSYBOX, "sleep", "1000", name="debug")
    options = config.linux.security_context.namespace_options
    options.pid, options.target_id = api_pb2.TARGET, target
    debug = pod.cri.create(pod.id, config, pod.config)
    pod.cri.start(debug)
    wait_until(lambda: b"sleep 12345" in pod.cri.exec_sync(debug, "ps", "-o", "args").stdout)
    pod.cri.stop(target)
    config.metadata.name = "late"
    refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.cri.create(pod.id, config, pod.config))


def test_a_container_without_a_log_path_runs(pod: Pod) -> None:
    container = pod.created("sh", "-c", "head -c 1000000 /dev/zero")
    request = container_config(BUSYBOX, "sh", "-c", "head -c 1000000 /dev/zero", name="silent")
    request.log_path = ""
    silent = pod.cri.create(pod.id, request, pod.config)
    pod.cri.start(silent)
    assert pod.cri.wait_for_state(silent, api_pb2.CONTAINER_EXITED).exit_code == 0
    assert pod.cri.status(silent).log_path == ""
    assert pod.cri.status(container).log_path == str(pod.node.logs / "app.log")


def test_a_terminal_has_one_output(pod: Pod) -> None:
    container = pod.running("sh", "-c", "test -t 1 && echo out; echo err >&2", tty=True, stdin=True)
    pod.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    lines = [line.split(" ", 3)[1:] for line in log_text(pod, "app").splitlines()]
    assert lines == [["stdout", "F", "out"], ["stdout", "F", "err"]]


# Running commands


def test_output_beyond_the_limit_is_read_and_dropped(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    answer = pod.cri.exec_sync(
        container, "sh", "-c", "head -c 20000000 /dev/zero; head -c 100 /dev/zero >&2; exit 4"
    )
    assert 16_000_000 < len(answer.stdout) <= 16 << 20
    assert answer.exit_code == 4


def test_a_command_that_exceeds_its_timeout_is_killed_with_its_children(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    refused(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda: pod.cri.exec_sync(container, "sh", "-c", "sleep 4321 & sleep 4321; :", timeout=1),
    )
    assert b"4321" not in pod.cri.exec_sync(container, "ps", "-o", "args").stdout
    assert_no_exec_is_left(pod, container)


def test_a_cancelled_exec_sync_kills_its_command(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    request = api_pb2.ExecSyncRequest(container_id=container, cmd=["sleep", "4321"])
    call = pod.cri.runtime.ExecSync.future(request, timeout=60)
    wait_until(lambda: b"4321" in pod.cri.exec_sync(container, "ps", "-o", "args").stdout)
    call.cancel()
    wait_until(lambda: b"4321" not in pod.cri.exec_sync(container, "ps", "-o", "args").stdout)
    assert_no_exec_is_left(pod, container)


def test_a_process_left_behind_does_not_block_an_exec_sync_with_timeout(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    began = time.monotonic()
    refused(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        lambda: pod.cri.exec_sync(container, "sh", "-c", "sleep 1000 &", timeout=1),
    )
    assert time.monotonic() - began < PATIENCE / 2
    assert_no_exec_is_left(pod, container)


def test_a_command_that_does_not_exist_is_an_error(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    said = refused(grpc.StatusCode.UNKNOWN, lambda: pod.cri.exec_sync(container, "/no/program"))
    assert "/no/program" in said
    assert_no_exec_is_left(pod, container)


def test_many_commands_at_once(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda i: pod.cri.exec_sync(container, "echo", str(i)), range(16))
        assert [answer.stdout for answer in answers] == [f"{i}\n".encode() for i in range(16)]
    assert_no_exec_is_left(pod, container)


def test_commands_need_a_running_container(pod: Pod) -> None:
    created = pod.created("true")
    refused(grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.cri.exec_sync(created, "true"))


# Changing and showing


def test_resources_that_the_kernel_refuses_are_restored(pod: Pod) -> None:
    resources = api_pb2.LinuxContainerResources(cpu_shares=512)
    container = pod.running(
        "sleep", "1000", linux=api_pb2.LinuxContainerConfig(resources=resources)
    )
    bad = api_pb2.LinuxContainerResources(cpu_shares=1024, cpuset_cpus="9999")
    request = api_pb2.UpdateContainerResourcesRequest(container_id=container, linux=bad)
    refused(grpc.StatusCode.UNKNOWN, lambda: pod.cri.runtime.UpdateContainerResources(request))
    shown = pod.cri.status(container).resources.linux
    assert (shown.cpu_shares, shown.cpuset_cpus) == (512, "")
    good = api_pb2.LinuxContainerResources(cpu_shares=256)
    request = api_pb2.UpdateContainerResourcesRequest(container_id=container, linux=good)
    pod.cri.runtime.UpdateContainerResources(request)
    assert pod.cri.status(container).resources.linux.cpu_shares == 256


def test_resources_of_a_created_container_change_before_it_starts(pod: Pod) -> None:
    container = pod.created("sh", "-c", "cat /sys/fs/cgroup/cpu*/cpu.shares || sleep 1000")
    wanted = api_pb2.LinuxContainerResources(memory_limit_in_bytes=48 << 20)
    request = api_pb2.UpdateContainerResourcesRequest(container_id=container, linux=wanted)
    pod.cri.runtime.UpdateContainerResources(request)
    assert pod.cri.status(container).resources.linux.memory_limit_in_bytes == 48 << 20


def test_the_log_of_an_ended_container_is_not_reopened(pod: Pod) -> None:
    container = pod.running("true")
    pod.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    (pod.node.logs / "app.log").unlink()
    request = api_pb2.ReopenContainerLogRequest(container_id=container)
    refused(
        grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.cri.runtime.ReopenContainerLog(request)
    )
    assert not (pod.node.logs / "app.log").exists()


def test_a_verbose_status_shows_the_final_spec(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    request = api_pb2.ContainerStatusRequest(container_id=container, verbose=True)
    info = pod.cri.runtime.ContainerStatus(request).info["info"]
    assert '"runtimeSpec":{"ociVersion"' in info
    assert f'"sandboxID":"{pod.id}"' in info


def test_lists_filter_by_state(pod: Pod) -> None:
    created, running = pod.created("true", name="c"), pod.running("sleep", "1000", name="r")
    for state, container in (
        (api_pb2.CONTAINER_CREATED, created),
        (api_pb2.CONTAINER_RUNNING, running),
    ):
        wanted = api_pb2.ContainerFilter(state=api_pb2.ContainerStateValue(state=state))
        request = api_pb2.ListContainersRequest(filter=wanted)
        found = pod.cri.runtime.ListContainers(request).containers
        assert [item.id for item in found] == [container]


# Statistics


def test_statistics_of_a_container(pod: Pod) -> None:
    limit = api_pb2.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    container = pod.running(
        *("sh", "-c", "while :; do :; done"), linux=api_pb2.LinuxContainerConfig(resources=limit)
    )
    request = api_pb2.ContainerStatsRequest(container_id=container)

    def stats() -> api_pb2.ContainerStats:
        answer: api_pb2.ContainerStatsResponse = pod.cri.runtime.ContainerStats(request)
        return answer.stats

    wait_until(lambda: stats().cpu.usage_nano_cores.value > 0)  # from two samples of the server
    first = stats()
    assert first.attributes.id == container
    assert 0 < first.cpu.usage_nano_cores.value < 2_000_000_000
    assert 0 < first.memory.working_set_bytes.value < 64 << 20
    available = first.memory.available_bytes.value
    assert available == (64 << 20) - first.memory.working_set_bytes.value
    used = first.cpu.usage_core_nano_seconds.value
    wait_until(lambda: stats().cpu.usage_core_nano_seconds.value > used)
    of_pod = api_pb2.PodSandboxStatsRequest(pod_sandbox_id=pod.id)

    def has_rate() -> bool:
        cpu = pod.cri.runtime.PodSandboxStats(of_pod).stats.linux.cpu
        return bool(cpu.HasField("usage_nano_cores"))

    wait_until(has_rate)


def test_statistics_of_a_pod(pod: Pod) -> None:
    container = pod.running("sleep", "1000")
    request = api_pb2.PodSandboxStatsRequest(pod_sandbox_id=pod.id)
    stats = pod.cri.runtime.PodSandboxStats(request).stats
    assert stats.attributes.id == pod.id
    assert stats.linux.network.default_interface.name == "eth0"
    assert [c.attributes.id for c in stats.linux.containers] == [container]
    listed = pod.cri.runtime.ListPodSandboxStats(api_pb2.ListPodSandboxStatsRequest()).stats
    assert [s.attributes.id for s in listed] == [pod.id]


def test_metrics_have_the_descriptors_labels(pod: Pod) -> None:
    limits = api_pb2.LinuxContainerResources(cpu_period=100000, cpu_quota=50000, cpu_shares=512)
    container = pod.running(
        *("sleep", "1000"),
        linux=api_pb2.LinuxContainerConfig(resources=limits),
    )
    runtime = pod.cri.runtime
    listed = runtime.ListMetricDescriptors(api_pb2.ListMetricDescriptorsRequest()).descriptors
    known = {descriptor.name: len(descriptor.label_keys) for descriptor in listed}
    answer = runtime.ListPodSandboxMetrics(api_pb2.ListPodSandboxMetricsRequest())
    (measured,) = (p for p in answer.pod_metrics if p.pod_sandbox_id == pod.id)
    (own,) = measured.container_metrics
    assert own.container_id == container
    for metric in (*measured.metrics, *own.metrics):
        assert len(metric.label_values) == known[metric.name], metric
    value = {metric.name: metric.value.value for metric in own.metrics}
    assert value["container_memory_usage_bytes"] >= value["container_memory_working_set_bytes"] > 0
    assert value["container_processes"] >= 1
    assert value["container_file_descriptors"] >= 3
    assert value["container_spec_cpu_quota"] == 50000
    assert value["container_fs_usage_bytes"] > 0, "measured although the container is new"
    names = {metric.name for metric in measured.metrics}
    assert "container_network_transmit_bytes_total" in names
    parts = list(runtime.StreamPodSandboxMetrics(api_pb2.StreamPodSandboxMetricsRequest()))
    assert [p.pod_sandbox_id for part in parts for p in part.pod_sandbox_metrics] == [pod.id]


def test_statistics_are_filtered_and_complete_for_running_containers_only(pod: Pod) -> None:
    created = pod.created("true", name="c", labels={"app": "a"})
    running = pod.running("sleep", "1000", name="r", labels={"app": "a"})
    for label, expected in (("a", {created, running}), ("b", set())):
        wanted = api_pb2.ContainerStatsFilter(label_selector={"app": label})
        request = api_pb2.ListContainerStatsRequest(filter=wanted)
        found = pod.cri.runtime.ListContainerStats(request).stats
        assert {item.attributes.id for item in found} == expected
        assert {item.attributes.id for item in found if item.HasField("cpu")} <= {running}
        assert {item.attributes.id for item in found if item.HasField("memory")} <= {running}


def assert_no_exec_is_left(pod: Pod, container: str) -> None:
    """Neither FIFOs of the server nor processes in the shim are left."""
    fifos = pod.directory(container, "state") / "exec"
    wait_until(lambda: list(fifos.iterdir()) == [])


def shims(pod: Pod) -> list[str]:
    """The command lines of the shims of this pod."""
    commands = pod.node.processes().values()
    return [c for c in commands if "containerd-shim" in c and pod.id in c]


# CDI devices


def test_a_cdi_device_comes_with_its_node_mount_variable_and_hook(pod: Pod) -> None:
    directory = pod.node.directory / "cdi"
    directory.mkdir(exist_ok=True)
    library = pod.node.directory / "library"
    library.write_text("of the vendor")
    hooked = pod.node.directory / "hooked"
    edits = {
        "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/zero"}],
        "mounts": [
            {"hostPath": str(library), "containerPath": "/lib/vendor", "options": ["bind", "ro"]}
        ],
        "env": ["VENDOR=0"],
        "hooks": [
            {"hookName": "createRuntime", "path": "/bin/touch", "args": ["touch", str(hooked)]}
        ],
    }
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "vendor.example/box",
        "devices": [{"name": "0", "containerEdits": edits}],
    }
    (directory / "vendor.json").write_text(json.dumps(spec))
    device = api_pb2.CDIDevice(name="vendor.example/box=0")
    container = pod.running("sleep", "60", CDI_devices=[device])
    script = "head -c 3 /dev/vendor0 | wc -c; cat /lib/vendor; echo; echo $VENDOR"
    seen = pod.cri.exec_sync(container, "sh", "-c", script)
    assert seen.stdout.split(b"\n") == [b"3", b"of the vendor", b"0", b""], seen
    assert hooked.exists()
    (directory / "vendor.json").unlink()
    said = refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        lambda: pod.created("true", name="b", CDI_devices=[device]),
    )
    assert "unresolvable CDI devices vendor.example/box=0" in said


# Runtime handlers


def test_a_handler_may_start_containers_from_a_spec_of_its_own(cri: Cri, node: Node) -> None:
    config = pod_config("based", log_directory=str(node.logs))
    pod = cri.run_pod(config, "based")
    # Of the first process: in an exec of runc 1.1, Go's start may have raised the soft limit.
    script = "ulimit -Sn; ulimit -Hn; echo $BASE; grep NoNewPrivs /proc/self/status"
    container = cri.create(pod, container_config(BUSYBOX, "sh", "-c", script, name="based"), config)
    cri.start(container)
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    shown = [line.split()[3:] for line in (node.logs / "based.log").read_text().splitlines()]
    assert shown == [["1234"], ["4321"], ["1"], ["NoNewPrivs:", "0"]]


def test_a_handler_may_name_its_shim_by_path(cri: Cri, node: Node) -> None:
    config = pod_config("by-path", log_directory=str(node.logs))
    pod = cri.run_pod(config, "by-path")
    container = cri.create(pod, container_config(BUSYBOX, "sleep", "60"), config)
    cri.start(container)
    assert cri.exec_sync(container, "echo", "hello").stdout == b"hello\n"
    cri.stop(container)
    assert cri.status(container).exit_code == 137


def crun_cannot_run() -> str:
    """Why crun cannot run containers here; "" if it can."""
    if shutil.which("crun") is None:
        return "Debian's crun is not installed"
    controllers = Path("/sys/fs/cgroup/unified/cgroup.controllers")
    if controllers.exists() and controllers.read_text().strip():
        return "crun does not support cgroup v1 beside a v2 with controllers"
    return ""


@pytest.mark.skipif(bool(crun_cannot_run()), reason=crun_cannot_run() or "it can")
def test_a_pod_runs_on_crun(cri: Cri, node: Node) -> None:
    config = pod_config("crun", log_directory=str(node.logs))
    pod = cri.run_pod(config, "crun")
    assert cri.pod_status(pod).runtime_handler == "crun"
    container = cri.create(pod, container_config(BUSYBOX, "sleep", "60"), config)
    cri.start(container)
    assert cri.exec_sync(container, "echo", "hello").stdout == b"hello\n"
    cri.stop(container)
    assert cri.status(container).exit_code == 137
    cri.remove(container)
    cri.stop_pod(pod)
    cri.remove_pod(pod)


def test_an_untrusted_pod_runs_in_the_handler_for_it(cri: Cri) -> None:
    config = pod_config("untrusted", annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    assert cri.pod_status(cri.run_pod(config)).runtime_handler == "untrusted"
    config.metadata.attempt += 1
    said = refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: cri.run_pod(config, "runc"))
    assert 'runtime_handler: an untrusted pod runs in the handler "untrusted"' in said


def test_a_class_that_nothing_defines_is_refused(pod: Pod) -> None:
    annotations = {"io.kubernetes.cri.rdt-class": "gold"}
    said = refused(
        grpc.StatusCode.FAILED_PRECONDITION, lambda: pod.created("true", annotations=annotations)
    )
    assert "there is no class 'gold'" in said and "ignore_rdt_not_enabled_errors" in said


# SELinux


def test_selinux_options_do_no_harm_on_a_node_without_selinux(pod: Pod) -> None:
    volume = pod.node.directory / "volume"
    volume.mkdir(exist_ok=True)
    context = api_pb2.LinuxContainerSecurityContext(
        selinux_options=api_pb2.SELinuxOption(type="spc_t", level="s0:c1,c2")
    )
    mount = api_pb2.Mount(container_path="/v", host_path=str(volume), selinux_relabel=True)
    linux = api_pb2.LinuxContainerConfig(security_context=context)
    container = pod.running("sleep", "60", linux=linux, mounts=[mount])
    assert pod.cri.exec_sync(container, "touch", "/v/file").exit_code == 0
    context.selinux_options.level = "secret"
    linux = api_pb2.LinuxContainerConfig(security_context=context)
    said = refused(
        grpc.StatusCode.INVALID_ARGUMENT, lambda: pod.created("true", name="b", linux=linux)
    )
    assert "config.linux.security_context.selinux_options.level: must be a level" in said


def log_text(pod: Pod, name: str) -> str:
    return (pod.node.logs / f"{name}.log").read_text()


def wait_for_log(pod: Pod, name: str, text: str) -> None:
    file = pod.node.logs / f"{name}.log"
    wait_until(lambda: file.exists() and text in file.read_text())


def test_an_image_without_layers_runs_a_mounted_program(pod: Pod, registry: Registry) -> None:
    images.push(registry.url, "empty:1", {"amd64": images.image([])})
    pod.cri.pull(f"{HOST}/empty:1")
    program = api_pb2.Mount(host_path=str(images.BUSYBOX), container_path="/busybox", readonly=True)
    container = pod.running(
        "/busybox", "sh", "-c", "exit 7", image=f"{HOST}/empty:1", mounts=[program]
    )
    assert pod.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED).exit_code == 7
