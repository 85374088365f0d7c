"""A volume or a log's file system that hangs affects only its own pod."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from runtime.logs.connection import ANSWER_SECONDS
from runtime.steps import threads
from tests.e2e.conftest import BUSYBOX, newest_only
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.hung_mount import HungMount, needs_fuse
from tests.harness.node import Node
from tests.harness.waiting import PATIENCE, wait_until


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[HungMount]:
    with HungMount(tmp_path / "hung") as mount:
        yield mount


def host_pod(name: str, logs: Path) -> api_pb2.PodSandboxConfig:
    spec = pod_config(name, log_directory=str(logs))
    spec.hostname = ""
    spec.linux.security_context.namespace_options.network = api_pb2.NODE
    return spec


@newest_only
@needs_fuse
def test_a_hung_volume_blocks_neither_other_pods_nor_the_shutdown(
    cri: Cri, node: Node, tmp_path: Path, hung: HungMount
) -> None:
    spec = host_pod("victim", tmp_path)
    pod = cri.run_pod(spec)
    config = container_config(BUSYBOX, "true")
    config.mounts.add(host_path=str(tmp_path / "hung/data"), container_path="/data")
    request = api_pb2.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=spec)
    hung.hang()
    calls = []
    for attempt in range(6):
        request.config.metadata.attempt = attempt
        calls.append(cri.runtime.CreateContainer.future(request, timeout=3))
    assert {call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    # the next one waits until the looks count as hung, and those after it do not
    for attempt, seconds in ((7, PATIENCE), (8, threads.HANGS / 2)):
        request.config.metadata.attempt = attempt
        with pytest.raises(grpc.RpcError) as failure:
            cri.runtime.CreateContainer(request, timeout=seconds)
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert f"looks at host paths hang on {tmp_path / 'hung/data'}" in str(
            failure.value.details()
        )

    began = time.monotonic()
    other_spec = host_pod("other", tmp_path)
    other = cri.run_pod(other_spec)
    container = cri.create(other, container_config(BUSYBOX, "sleep", "60"), other_spec)
    cri.start(container)
    cri.runtime.ListContainerStats(api_pb2.ListContainerStatsRequest(), timeout=PATIENCE)
    cri.stop_pod(other)
    cri.remove_pod(other)
    assert time.monotonic() - began < threads.HANGS

    assert node.stop() == 0, "SIGTERM ends the server although looks hang"
    node.start()
    hung.go_on()


@newest_only
@needs_fuse
def test_a_hung_log_file_system_blocks_no_other_container(
    cri: Cri, node: Node, tmp_path: Path, hung: HungMount
) -> None:
    bad_spec, good_spec = host_pod("bad", tmp_path / "hung"), host_pod("good", tmp_path)
    script = "i=0; while true; do i=$((i+1)); echo line $i; usleep 50000; done"
    bad = cri.create(cri.run_pod(bad_spec), container_config(BUSYBOX, "sh", "-c", script), bad_spec)
    cri.start(bad)
    hung.hang()

    config = container_config(BUSYBOX, "sh", "-c", script)
    good = cri.create(cri.run_pod(good_spec), config, good_spec)
    cri.start(good)
    log = tmp_path / config.log_path
    wait_until(lambda: "stdout F line 3" in log.read_text())
    log.rename(tmp_path / "rotated.log")
    request = api_pb2.ReopenContainerLogRequest(container_id=good)
    cri.runtime.ReopenContainerLog(request, timeout=ANSWER_SECONDS / 2)
    with pytest.raises(grpc.RpcError, match="does not respond") as failure:
        cri.runtime.ReopenContainerLog(
            api_pb2.ReopenContainerLogRequest(container_id=bad), timeout=ANSWER_SECONDS / 2
        )
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    waits = node.log().count("output not drained")
    cri.stop(good)
    cri.remove(good)
    assert node.log().count("output not drained") == waits
    cri.stop(bad)
    cri.remove(bad)
    hung.go_on()


def test_a_fifo_at_a_logs_path_is_refused_and_the_old_file_is_kept(
    cri: Cri, tmp_path: Path
) -> None:
    spec = host_pod("pod", tmp_path)
    config = container_config(BUSYBOX, "sh", "-c", "while true; do echo line; usleep 50000; done")
    container = cri.create(cri.run_pod(spec), config, spec)
    cri.start(container)
    log = tmp_path / config.log_path
    log.rename(tmp_path / "rotated.log")
    os.mkfifo(log)
    request = api_pb2.ReopenContainerLogRequest(container_id=container)
    with pytest.raises(grpc.RpcError, match="it is not a regular file"):
        cri.runtime.ReopenContainerLog(request, timeout=PATIENCE)
    size = (tmp_path / "rotated.log").stat().st_size
    wait_until(lambda: (tmp_path / "rotated.log").stat().st_size > size)
