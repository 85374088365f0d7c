"""The basic walk: a pod and a container, from RunPodSandbox to their removal."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.registry import free_port
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX

EXAMPLES = Path(__file__).parents[2] / "examples/crictl"


def started(cri: Cri, node: Node, *command: str, **fields: Any) -> tuple[str, str]:
    """A running pod and a container that logs below the node's folder."""
    pod_spec = pod_config(log_directory=str(node.logs))
    pod = cri.run_pod(pod_spec)
    container = cri.create(pod, container_config(BUSYBOX, *command, **fields), pod_spec)
    cri.start(container)
    return pod, container


def log_lines(node: Node, name: str = "app.log") -> list[tuple[str, str, str]]:
    """(stream, P or F, content) of each line of a CRI log file."""
    lines = (node.logs / name).read_text().splitlines()
    return [tuple(line.split(" ", 3)[1:4]) for line in lines]  # type: ignore[misc]


def test_a_pod_gets_an_address_of_its_network(cri: Cri, node: Node) -> None:
    pod = cri.run_pod(pod_config())
    status = cri.pod_status(pod)
    assert status.state == api_pb2.SANDBOX_READY
    assert status.network.ip.startswith(node.subnet.rpartition(".")[0] + ".")


def test_the_example_of_the_readme_runs(cri: Cri, node: Node) -> None:
    pod, container = api_pb2.PodSandboxConfig(), api_pb2.ContainerConfig()
    json_format.Parse((EXAMPLES / "pod.json").read_text(), pod)
    json_format.Parse((EXAMPLES / "container.json").read_text(), container)
    pod.log_directory, container.image.image = str(node.logs), BUSYBOX
    cri.start(cri.create(cri.run_pod(pod), container, pod))
    log = node.logs / container.log_path
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))


def test_output_reaches_the_log_in_cri_format(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sh", "-c", "echo out; echo err >&2; printf tail")
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert sorted(log_lines(node)) == [
        ("stderr", "F", "err"),
        ("stdout", "F", "out"),
        ("stdout", "P", "tail"),
    ]


def test_a_long_line_is_cut_at_16_kib(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    tags_and_sizes = [(tag, len(text)) for _, tag, text in log_lines(node)]
    assert tags_and_sizes == [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384)]


def test_logs_go_to_the_new_file_after_reopen(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sh", "-c", "while :; do echo tick; sleep 0.1; done")
    log = node.logs / "app.log"
    wait_until(lambda: log.exists() and log.stat().st_size > 0)
    log.rename(node.logs / "app.log.1")
    cri.runtime.ReopenContainerLog(api_pb2.ReopenContainerLogRequest(container_id=container))
    wait_until(lambda: log.exists() and log.stat().st_size > 0)


def test_exit_code_times_and_reason(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sh", "-c", "exit 7")
    status = cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert 0 < status.created_at <= status.started_at <= status.finished_at <= time.time_ns()


def test_a_command_that_does_not_exist_ends_as_start_error(cri: Cri, node: Node) -> None:
    with pytest.raises(grpc.RpcError):
        started(cri, node, "/no/such/program")
    (container,) = cri.runtime.ListContainers(api_pb2.ListContainersRequest()).containers
    status = cri.status(container.id)
    assert status.state == api_pb2.CONTAINER_EXITED
    assert (status.exit_code, status.reason) == (128, "StartError")
    assert "/no/such/program" in status.message


def test_memory_limit_kills_as_oomkilled(cri: Cri, node: Node) -> None:
    linux = api_pb2.LinuxContainerConfig(
        resources=api_pb2.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    )
    _, container = started(cri, node, "sh", "-c", "tail /dev/zero", linux=linux)
    status = cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_exec_returns_output_and_code(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sleep", "60")
    answer = cri.exec_sync(container, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)


def test_exec_that_exceeds_its_timeout_is_deadline_exceeded(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sleep", "60")
    with pytest.raises(grpc.RpcError) as error:
        cri.exec_sync(container, "sleep", "30", timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_exec_output_is_capped_at_16_mib(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sleep", "60")
    # the reply must fit into the kubelet's 16 MiB too, so this is a little less than both streams
    answer = cri.exec_sync(container, "sh", "-c", "head -c 12000000 /dev/zero")
    assert len(answer.stdout) == 12_000_000


def test_stop_sends_the_signal_and_kills_after_the_timeout(cri: Cri, node: Node) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    _, container = started(cri, node, *stubborn)
    # before it executes its command, it is runc, which a signal ends
    wait_until(lambda: "ready" in (node.logs / "app.log").read_text())
    began = time.monotonic()
    cri.stop(container, 1)
    assert 1 <= time.monotonic() - began < 20
    assert cri.status(container).exit_code == 137
    cri.stop(container, 1)  # repeatable


def test_resources_change_while_it_runs(cri: Cri, node: Node) -> None:
    _, container = started(cri, node, "sleep", "60")
    resources = api_pb2.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_shares=512)
    cri.runtime.UpdateContainerResources(
        api_pb2.UpdateContainerResourcesRequest(container_id=container, linux=resources)
    )
    status = cri.status(container)
    assert status.resources.linux.memory_limit_in_bytes == 64 << 20
    assert status.resources.linux.cpu_shares == 512


def test_ids_may_be_prefixes_and_lists_filter(cri: Cri, node: Node) -> None:
    pod, container = started(cri, node, "sleep", "60", labels={"app": "a"})
    assert cri.status(container[:12]).id == container
    by_label = api_pb2.ContainerFilter(label_selector={"app": "a"}, pod_sandbox_id=pod[:12])
    found = cri.runtime.ListContainers(api_pb2.ListContainersRequest(filter=by_label)).containers
    assert [c.id for c in found] == [container]
    by_label.label_selector["app"] = "b"
    found = cri.runtime.ListContainers(api_pb2.ListContainersRequest(filter=by_label)).containers
    assert not found


def test_names_are_reserved_and_freed(cri: Cri, node: Node) -> None:
    config = pod_config("same")
    pod = cri.run_pod(config)
    with pytest.raises(grpc.RpcError) as error:
        cri.run_pod(config)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert pod in str(error.value.details())
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    assert cri.run_pod(config) != pod


def test_stop_and_remove_succeed_if_the_object_does_not_exist(cri: Cri) -> None:
    cri.stop("0" * 64)
    cri.remove("0" * 64)
    cri.stop_pod("0" * 64)
    cri.remove_pod("0" * 64)
    with pytest.raises(grpc.RpcError) as error:
        cri.status("0" * 64)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_an_invalid_request_names_the_field(cri: Cri) -> None:
    with pytest.raises(grpc.RpcError) as error:
        cri.run_pod(api_pb2.PodSandboxConfig())
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "config.metadata" in str(error.value.details())


def test_a_host_port_leads_to_the_pod(cri: Cri, node: Node) -> None:
    host_port = free_port()
    port = api_pb2.PortMapping(protocol=api_pb2.TCP, container_port=80, host_port=host_port)
    pod_spec = pod_config(port_mappings=[port])
    pod = cri.run_pod(pod_spec)
    serve = container_config(BUSYBOX, "sh", "-c", "echo hi > /www/x; exec httpd -f -p 80 -h /www")
    cri.start(cri.create(pod, serve, pod_spec))
    url = "http://" + node.subnet.replace(".0/24", f".1:{host_port}/x")

    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return bool(answer.read() == b"hi\n")
        except OSError:  # the server in the pod does not listen yet
            return False

    wait_until(answers)


def test_dns_hostname_shm_and_sysctl_reach_the_container(cri: Cri, node: Node) -> None:
    dns = api_pb2.DNSConfig(servers=["10.9.8.7"], searches=["x.example"], options=["ndots:5"])
    pod_spec = pod_config("named", dns_config=dns)
    pod_spec.linux.sysctls["net.ipv4.ip_forward"] = "1"
    pod = cri.run_pod(pod_spec)
    container = cri.create(pod, container_config(BUSYBOX, "sleep", "60"), pod_spec)
    cri.start(container)
    seen = cri.exec_sync(
        container,
        "sh",
        "-c",
        "hostname; cat /etc/resolv.conf /proc/sys/net/ipv4/ip_forward; df /dev/shm | tail -n 1",
    ).stdout.decode()
    assert seen.startswith("named\n")
    for part in ("nameserver 10.9.8.7", "search x.example", "options ndots:5", "65536"):
        assert part in seen


def test_host_network_pod_is_in_the_host_namespace(cri: Cri, node: Node) -> None:
    pod_spec = pod_config()
    pod_spec.hostname = ""
    pod_spec.linux.security_context.namespace_options.network = api_pb2.NODE
    pod = cri.run_pod(pod_spec)
    config = container_config(BUSYBOX, "sleep", "60")
    config.linux.security_context.namespace_options.network = api_pb2.NODE
    container = cri.create(pod, config, pod_spec)
    cri.start(container)
    seen = cri.exec_sync(container, "readlink", "/proc/self/ns/net").stdout.decode().strip()
    assert seen == os.readlink("/proc/self/ns/net")
    assert cri.pod_status(pod).network.ip == ""


def test_a_restart_keeps_pods_logs_and_exit_codes(cri: Cri, node: Node) -> None:
    # it exits when told to: an exit while the private daemon is down has no code
    script = (
        "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.1; done;"
        "while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 5"
    )
    pod, container = started(cri, node, "sh", "-c", script)
    node.stop()
    node.start()
    assert cri.pod_status(pod).state == api_pb2.SANDBOX_READY
    wait_until(lambda: log_lines(node)[-1][2] == "line 39")
    cri.exec_sync(container, "touch", "/tmp/end")
    status = cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert status.exit_code == 5
    numbers = [int(re.sub(r"\D", "", text)) for _, _, text in log_lines(node)]
    assert numbers == list(range(40))


def test_a_killed_server_loses_nothing(cri: Cri, node: Node) -> None:
    pod, container = started(cri, node, "sleep", "60")
    node.stop(signal.SIGKILL)
    node.start()
    assert cri.status(container).state == api_pb2.CONTAINER_RUNNING
    assert cri.exec_sync(container, "echo", "hi").stdout == b"hi\n"
    assert cri.pod_status(pod).network.ip
