"""The server as a process: its start, its shutdown, and what it reports."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.leaks import claim
from tests.harness.node import SERVER, Node
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX


def running(cri: Cri, *command: str) -> str:
    """A running container in a pod of its own."""
    config = pod_config("server")
    pod = cri.run_pod(config)
    container = cri.create(pod, container_config(BUSYBOX, *command), config)
    cri.start(container)
    return container


def test_the_server_waits_for_running_calls(cri: Cri, node: Node) -> None:
    container = running(cri, "sleep", "1000")
    answers: list[api_pb2.ExecSyncResponse] = []
    script = "touch /tmp/begun; sleep 1; echo done"
    call = threading.Thread(
        target=lambda: answers.append(cri.exec_sync(container, "sh", "-c", script))
    )
    call.start()
    wait_until(lambda: cri.exec_sync(container, "test", "-e", "/tmp/begun").exit_code == 0)
    try:
        assert node.stop() == 0
        call.join(PATIENCE)
        assert [answer.stdout for answer in answers] == [b"done\n"]
    finally:
        node.start()
    assert cri.status(container).state == api_pb2.CONTAINER_RUNNING


def test_the_socket_is_for_root_only(cri: Cri, node: Node) -> None:
    assert Path(node.socket).stat().st_mode & 0o777 == 0o600


def test_a_second_server_on_the_same_state_is_refused(cri: Cri, node: Node) -> None:
    command: list[str | Path] = [
        *(SERVER, "serve", "--root", node.directory / "root", "--state", node.directory / "state"),
        *("--listen", f"unix://{node.directory}/second.sock"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert "another process uses this state directory: process" in done.stderr


def test_a_dead_daemon_is_restarted_and_pods_keep_running(cri: Cri, node: Node) -> None:
    container = running(cri, "sleep", "1000")
    codes: set[grpc.StatusCode] = set()

    def served_again() -> bool:
        try:
            return cri.exec_sync(container, "true").exit_code == 0
        except grpc.RpcError as error:
            codes.add(error.code())
            return False

    pid = node.directory / "state/containerd/containerd.pid"
    for _ in range(5):  # the daemon may be back before this process has sent a call
        os.kill(int(pid.read_text()), signal.SIGKILL)
        wait_until(served_again)
        if codes:
            break
    # Meanwhile calls were refused, and the daemon's end was not taken for the container's.
    assert codes == {grpc.StatusCode.UNAVAILABLE}
    assert cri.status(container).state == api_pb2.CONTAINER_RUNNING


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder with a short name, because sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="cri-", dir="/tmp") as folder:
        claim(Path(folder))
        yield Path(folder)


def test_a_missing_containerd_is_waited_for(short_path: Path) -> None:
    socket = short_path / "cri.sock"
    command: list[str | Path] = [
        *(SERVER, "serve", "--containerd", f"unix://{short_path}/none.sock"),
        *("--listen", f"unix://{socket}"),
        *("--root", short_path / "root", "--state", short_path / "state"),
    ]
    log = short_path / "server.log"
    with log.open("w") as written, subprocess.Popen(command, stderr=written) as process:
        wait_until(socket.exists)
        cri = Cri(str(socket))
        try:
            with pytest.raises(grpc.RpcError) as caught:
                cri.runtime.Version(api_pb2.VersionRequest(), timeout=PATIENCE)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "waiting for containerd at unix://" in str(caught.value.details())
            # it says so when it has waited for more than a moment
            wait_until(lambda: 'event="waiting for containerd"' in log.read_text())
        finally:
            cri.close()
            process.terminate()
        assert process.wait(PATIENCE) == 0
    said = log.read_text()
    assert said.count('event="waiting for containerd"') == 1
    assert "start containerd, or set its socket with --containerd" in said


def test_explain_answers_from_the_running_container(cri: Cri, node: Node) -> None:
    container = running(cri, "sleep", "1000")
    command: list[str | Path] = [
        *(SERVER, "explain", "--embedded", container[:12], "process.args"),
        *("--root", node.directory / "root", "--state", node.directory / "state"),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert 'process.args = ["sleep", "1000"]' in said
    assert "ContainerConfig.command: process.args(" in said


def test_a_client_of_an_older_package_is_served(cri: Cri, node: Node) -> None:
    container = running(cri, "sleep", "1000")
    with grpc.insecure_channel(f"unix://{node.socket}") as channel:

        def call(method: str, request: Message, response: type[Message]) -> Any:
            return channel.unary_unary(
                f"/runtime.v1alpha2.{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=response.FromString,
            )(request, timeout=20)

        version = call("RuntimeService/Version", api_pb2.VersionRequest(), api_pb2.VersionResponse)
        assert version.version == "0.1.0"
        listed = call(
            "RuntimeService/ListContainers",
            api_pb2.ListContainersRequest(),
            api_pb2.ListContainersResponse,
        )
        assert [one.id for one in listed.containers] == [container]
        images = call(
            "ImageService/ListImages", api_pb2.ListImagesRequest(), api_pb2.ListImagesResponse
        )
        assert images.images
        with pytest.raises(grpc.RpcError) as caught:
            call(
                "RuntimeService/ContainerStatus",
                api_pb2.ContainerStatusRequest(container_id="absent"),
                api_pb2.ContainerStatusResponse,
            )
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
