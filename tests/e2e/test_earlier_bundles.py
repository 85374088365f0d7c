"""Starts of containers whose earlier task containerd is still cleaning up, on every containerd."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from generated.cri import api_pb2
from tests.harness.cri import container_config, pod_config
from tests.harness.machine import Machine
from tests.harness.node import all_containerds
from tests.harness.registry import Registry
from tests.harness.waiting import wait_until

from .conftest import BUSYBOX, machine_on


@pytest.fixture(scope="module", params=all_containerds(), ids=lambda containerd: containerd.name)
def machine(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Machine]:
    with machine_on(request.param, registry) as machine:
        yield machine


def test_a_start_waits_until_an_earlier_bundle_is_deleted(served: Machine) -> None:
    """A task whose creation was cancelled leaves its bundle until the shim has answered."""
    spec = pod_config()
    pod = served.cri.run_pod(spec)
    container = served.cri.create(pod, container_config(BUSYBOX, "sleep", "1000"), spec)
    bundle = served.bundle(container)
    bundle.mkdir()
    start = threading.Thread(target=served.cri.start, args=(container,))
    start.start()
    wait_until(lambda: "waiting for containerd to delete an earlier bundle" in served.log())
    assert start.is_alive()
    bundle.rmdir()
    start.join()
    assert served.cri.status(container).state == api_pb2.CONTAINER_RUNNING
