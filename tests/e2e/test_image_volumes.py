"""Images as volumes of containers, on real containerd."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.machine import Machine
from tests.harness.node import Node
from tests.harness.registry import Registry

from .conftest import BUSYBOX, HOST

DATA = f"{HOST}/data:1"
"""An image of two layers that no container is created from: it is an overlay."""


@pytest.fixture(scope="module", autouse=True)
def data_image(registry: Registry) -> None:
    links: dict[str, bytes | str | None] = {
        "srv": None,
        "srv/models": None,
        "srv/models/one": b"first",
        "models": "/srv/models",
        "out": "../../../../../../var/lib",
    }
    layers = [images.layer_tar(images.busybox_files()), images.layer_tar(links)]
    images.push(registry.url, "data:1", {"amd64": images.image(layers)})


def volume(path: str, sub_path: str = "", image: str = DATA) -> api_pb2.Mount:
    return api_pb2.Mount(
        container_path=path,
        readonly=True,
        image=api_pb2.ImageSpec(image=image),
        image_sub_path=sub_path,
    )


def mounted(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [path for line in lines if (path := line.split()[4]).startswith(f"{directory}/")]


def test_containers_of_a_pod_share_an_image_until_it_stops(cri: Cri, node: Node) -> None:
    image = cri.pull(DATA)
    config = pod_config(log_directory=str(node.logs))
    pod = cri.run_pod(config)
    mounts = [volume("/whole"), volume("/sub", "models")]
    first, second = (
        cri.create(pod, container_config(BUSYBOX, "sleep", "99", name=name, mounts=mounts), config)
        for name in ("first", "second")
    )
    directory = node.directory / "state/io.containerd.grpc.v1.cri/image-volumes" / pod
    assert len(mounted(directory)) == 1
    # a removed image stays in the pods that use it
    cri.images.RemoveImage(api_pb2.RemoveImageRequest(image=api_pb2.ImageSpec(image=DATA)))
    for container in (first, second):
        cri.start(container)
        read = cri.exec_sync(container, "cat", "/whole/srv/models/one", "/sub/one")
        assert read.stdout == b"firstfirst"
        # programs of the volume can be run
        assert cri.exec_sync(container, "/whole/bin/busybox", "true").exit_code == 0
        assert b"Read-only" in cri.exec_sync(container, "touch", "/sub/new").stderr
    for mount in cri.status(first).mounts:
        assert (mount.image.image, mount.image.image_ref) == (DATA, image)
    assert [mount.image_sub_path for mount in cri.status(first).mounts] == ["", "models"]
    cri.stop_pod(pod)
    assert not directory.exists()
    assert mounted(directory.parent) == []


def test_what_an_image_lacks_is_refused_with_the_kubelets_word(cri: Cri) -> None:
    cri.pull(DATA)
    config = pod_config()
    pod = cri.run_pod(config)
    for mount, field in (
        (volume("/v", image=f"{HOST}/absent:1"), "image.image"),
        (volume("/v", "absent"), "image_sub_path"),
        (volume("/v", "out"), "image_sub_path"),
    ):
        with pytest.raises(grpc.RpcError) as error:
            cri.create(pod, container_config(BUSYBOX, "true", mounts=[mount]), config)
        assert error.value.code() is grpc.StatusCode.UNKNOWN
        assert str(error.value.details()).startswith(
            f"ImageVolumeMountFailed: config.mounts[0].{field}: "
        )


def test_mounts_of_an_earlier_server_are_used_and_those_of_no_pod_removed(
    served: Machine,
) -> None:
    served.cri.pull(DATA)
    config = pod_config()
    pod = served.cri.run_pod(config)
    created = container_config(BUSYBOX, "sleep", "99", mounts=[volume("/v")])
    served.cri.create(pod, created, config)
    directory = served.directory / "state/io.containerd.grpc.v1.cri/image-volumes"
    before = mounted(directory)
    served.end("server", signal.SIGKILL)
    (directory / ("0" * 64) / "1").mkdir(parents=True)
    served.start_server()
    assert [path.name for path in directory.iterdir()] == [pod]
    container = served.cri.create(
        pod,
        container_config(BUSYBOX, "cat", "/v/one", name="x", mounts=[volume("/v", "srv/models")]),
        config,
    )
    assert mounted(directory) == before
    served.cri.start(container)
    status = served.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED)
    assert status.exit_code == 0
    served.cri.remove_pod(pod)
    assert list(directory.iterdir()) == []
