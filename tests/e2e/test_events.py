"""GetContainerEvents on a real containerd, as a kubelet with Evented PLEG uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from generated.cri import api_pb2
from runtime.server.listener import GRACE
from tests.e2e.conftest import BUSYBOX
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node
from tests.harness.waiting import PATIENCE, wait_until

CREATED, STARTED = api_pb2.CONTAINER_CREATED_EVENT, api_pb2.CONTAINER_STARTED_EVENT
STOPPED, DELETED = api_pb2.CONTAINER_STOPPED_EVENT, api_pb2.CONTAINER_DELETED_EVENT


class Listener:
    """A client that follows the events and stores those of one pod."""

    def __init__(self, cri: Cri) -> None:
        self.told: list[api_pb2.ContainerEventResponse] = []
        self.code: grpc.StatusCode | None = None
        self.ended_at = 0.0
        self._call = cri.runtime.GetContainerEvents(api_pb2.GetEventsRequest())
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self.told.append(event)
        except grpc.RpcError as error:
            self.code = error.code()
            self.ended_at = time.monotonic()

    def of(self, pod: str) -> list[api_pb2.ContainerEventResponse]:
        return [event for event in self.told if event.pod_sandbox_status.id == pod]

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self._call.cancel()
        self.join()


@pytest.fixture
def listener(cri: Cri, node: Node) -> Iterator[Listener]:
    listener = Listener(cri)
    yield listener
    listener.close()


def test_every_change_of_a_pod_is_sent_with_its_statuses(
    cri: Cri, node: Node, listener: Listener
) -> None:
    config = pod_config("told")
    pod = cri.run_pod(config)
    container = cri.create(pod, container_config(BUSYBOX, "sh", "-c", "exit 3"), config)
    cri.start(container)
    cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    cri.stop_pod(pod)
    cri.remove_pod(pod)
    wait_until(lambda: len(listener.of(pod)) == 8)
    told = listener.of(pod)
    assert [(event.container_id, event.container_event_type) for event in told] == [
        (pod, CREATED),
        (pod, STARTED),
        (container, CREATED),
        (container, STARTED),
        (container, STOPPED),
        (pod, STOPPED),
        (container, DELETED),
        (pod, DELETED),
    ]
    running, exited = told[3], told[4]
    assert running.pod_sandbox_status.state == api_pb2.SANDBOX_READY
    assert running.pod_sandbox_status.network.ip
    assert running.pod_sandbox_status.metadata.uid == config.metadata.uid
    assert running.containers_statuses[0].state == api_pb2.CONTAINER_RUNNING
    assert exited.containers_statuses[0].state == api_pb2.CONTAINER_EXITED
    assert exited.containers_statuses[0].exit_code == 3
    assert exited.created_at >= exited.containers_statuses[0].finished_at
    assert told[5].pod_sandbox_status.state == api_pb2.SANDBOX_NOTREADY
    assert not told[7].containers_statuses


def test_a_stop_of_the_server_ends_the_stream_at_once(
    cri: Cri, node: Node, listener: Listener
) -> None:
    pod = cri.run_pod(pod_config("ends"))
    wait_until(lambda: len(listener.of(pod)) == 2)
    began = time.monotonic()
    try:
        assert node.stop() == 0
        listener.join()
        assert listener.code is grpc.StatusCode.UNAVAILABLE
        assert listener.ended_at - began < GRACE, "other calls have that time, this stream has none"
    finally:
        node.start()


def test_a_late_client_receives_the_events_of_the_last_minutes(cri: Cri, node: Node) -> None:
    pod = cri.run_pod(pod_config("late"))
    late = Listener(cri)
    try:
        wait_until(lambda: len(late.of(pod)) == 2)
    finally:
        late.close()
