"""Checkpoints of running containers, where the node has a CRIU that works on its kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node, containerds
from tests.harness.registry import Registry, free_port
from tests.harness.waiting import PATIENCE, wait_until

from .conftest import BUSYBOX, HOST

CHECKPOINT = f"{HOST}/checkpoint:1"
COUNTER = (
    *("sh", "-c"),
    "rm /bin/vi; echo kept > /kept; i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done",
)
"""Changes its root file system, then prints ever greater numbers: a restored one continues."""


def criu_works(node: Node) -> bool:
    """Whether ``criu check`` on the PATH of the node's containerd finds all that it needs."""
    path = node.containerd.environment()["PATH"]
    criu = shutil.which("criu", path=f"{path}:/usr/sbin")
    if criu is None:
        return False
    return subprocess.run([criu, "check"], capture_output=True, check=False).returncode == 0


def numbers(node: Node, name: str) -> list[int]:
    """What the counter has printed so far."""
    log = node.logs / name
    text = log.read_text() if log.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # without one that is being written
    return [int(line.rpartition(" ")[2]) for line in lines]


def checkpoint(cri: Cri, container: str, location: Path, timeout: int = 0) -> None:
    request = api_pb2.CheckpointContainerRequest(
        container_id=container, location=str(location), timeout=timeout
    )
    cri.runtime.CheckpointContainer(request, timeout=60)


def read(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


@pytest.fixture(scope="module", params=containerds(), ids=lambda containerd: containerd.name)
def node(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Node]:
    """A node that restores checkpoints, and serves metrics."""
    address = f"127.0.0.1:{free_port()}"
    with Node(
        containerd=request.param,
        registry_mirrors={HOST: registry.url},
        extra_keys="enable_experimental_restore_via_create = true\n",
        extra_config=f'[metrics]\naddress = "{address}"\n',
    ) as node:
        node.cri.pull(BUSYBOX)
        yield node


@pytest.fixture
def counter(cri: Cri, node: Node) -> Iterator[str]:
    config = pod_config(log_directory=str(node.logs))
    pod = cri.run_pod(config)
    container = cri.create(pod, container_config(BUSYBOX, *COUNTER, log_path="0.log"), config)
    cri.start(container)
    wait_until(lambda: len(numbers(node, "0.log")) > 2)
    yield container


def test_a_checkpoint_has_what_checkpointctl_reads(cri: Cri, node: Node, counter: str) -> None:
    if not criu_works(node):
        pytest.skip("no CRIU that works on this kernel")
    archive = node.directory / "checkpoint-1.tar"
    checkpoint(cri, counter, archive)
    assert os.stat(archive).st_mode & 0o777 == 0o600
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert {"config.dump", "spec.dump", "status.dump", "status", "dump.log", "stats-dump"} < set(
        names
    )
    assert {"checkpoint", "checkpoint/inventory.img", "container.log"} < set(names)
    config = json.loads(read(archive, "config.dump"))
    assert config["id"] == counter
    assert config["rootfsImageName"] == BUSYBOX
    assert json.loads(read(archive, "deleted.files")) == ["/bin/vi"]
    at = numbers(node, "0.log")[-1]
    wait_until(lambda: numbers(node, "0.log")[-1] > at)
    assert cri.exec_sync(counter, "cat", "/kept").stdout == b"kept\n"


def of_archive(archive: Path, registry: Registry) -> str:
    return str(archive)


def of_image(archive: Path, registry: Registry) -> str:
    """An image as buildah makes one of an archive: its files are the only layer."""
    annotations = {"io.kubernetes.cri-o.annotations.checkpoint.name": "counter"}
    made = images.image([archive.read_bytes()], annotations=annotations)
    images.push(registry.url, "checkpoint:1", {"amd64": made})
    return CHECKPOINT


@pytest.mark.parametrize("named", [of_archive, of_image])
def test_a_container_continues_where_another_was_checkpointed(
    cri: Cri,
    node: Node,
    registry: Registry,
    counter: str,
    named: Callable[[Path, Registry], str],
) -> None:
    if not criu_works(node):
        pytest.skip("no CRIU that works on this kernel")
    archive = node.directory / f"checkpoint-{named.__name__}.tar"
    checkpoint(cri, counter, archive)
    cri.stop(counter)
    name = named(archive, registry)
    if name == CHECKPOINT:
        cri.pull(name)
    config = pod_config("second", log_directory=str(node.logs))
    pod = cri.run_pod(config)
    container = cri.create(
        pod, container_config(name, "ignored", name="again", log_path="1.log"), config
    )
    before = len(numbers(node, "1.log"))
    cri.start(container)
    wait_until(lambda: len(numbers(node, "1.log")) > before + 2)
    found = numbers(node, "1.log")
    assert found == list(range(1, len(found) + 1))
    assert cri.exec_sync(container, "cat", "/kept").stdout == b"kept\n"
    assert cri.exec_sync(container, "ls", "/bin/vi").exit_code == 1
    status = cri.status(container)
    assert (status.image.image, status.metadata.name) == (BUSYBOX, "again")
    assert status.annotations["restored"] == "true"
    assert status.annotations["checkpointImage"] == name
    cri.stop(container)
    assert cri.status(container).exit_code == 137


def test_logs_are_counted_in_the_metrics(cri: Cri, node: Node, counter: str) -> None:
    url = "http://" + node.extra_config.split('"')[1]

    def written() -> float:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (one for one in lines if one.startswith("containerd_cri_output_entries_total "))
        return float(line.split()[1])

    wait_until(lambda: written() > 0)


def test_without_criu_the_error_names_the_remedy(cri: Cri, node: Node, counter: str) -> None:
    if criu_works(node):
        pytest.skip("this node has CRIU")
    archive = node.directory / "checkpoint-2.tar"
    with pytest.raises(grpc.RpcError) as error:
        checkpoint(cri, counter, archive)
    assert error.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNKNOWN)
    at = numbers(node, "0.log")[-1]
    wait_until(lambda: numbers(node, "0.log")[-1] > at)
    assert not archive.exists()
