"""Real components: containerd, runc, CNI plugins and a registry; root is required.

Every test runs on each containerd that ``tests.harness.node.containerds`` finds: the system's and
the newest, or those in CRI_TEST_CONTAINERDS.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import cgroups, images
from tests.harness.cri import Cri
from tests.harness.leaks import Holdings
from tests.harness.machine import Machine
from tests.harness.node import Containerd, Node, containerds
from tests.harness.registry import Registry
from tests.harness.waiting import became_true

HOST = "test.example"
BUSYBOX = f"{HOST}/busybox:1"
PAUSE = f"{HOST}/recovery-pause:1"


newest_only = pytest.mark.newest_only
"""Of a slow test about what no containerd has a part in, such as CNI plugins that hang."""


def _runs_on(item: pytest.Item, containerd: Containerd) -> bool:
    given = getattr(item, "callspec", None)
    used = [p for p in given.params.values() if isinstance(p, Containerd)] if given else []
    return all(one.name == containerd.name for one in used)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    newest = containerds()[-1]
    left_out = [
        item
        for item in items
        if item.get_closest_marker("newest_only") and not _runs_on(item, newest)
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    if os.geteuid() == 0:
        return
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces, mounts and cgroups"))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """After the whole run, nothing of the run may be left on the machine."""
    before = Holdings.now()
    with cgroups.without_new_default_parent():
        yield
        assert became_true(lambda: not Holdings.now().since(before)), Holdings.now().since(before)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, nothing_is_left: None) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        files = images.busybox_files()
        busybox = images.image([images.layer_tar(files)])
        images.push(registry.url, "busybox:1", {"amd64": busybox})
        yield registry


@pytest.fixture(scope="session", params=containerds(), ids=lambda containerd: containerd.name)
def node(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Node]:
    containerd: Containerd = request.param
    with Node(containerd=containerd, registry_mirrors={HOST: registry.url}) as node:
        node.cri.pull(BUSYBOX)
        yield node


@pytest.fixture
def cri(node: Node) -> Iterator[Cri]:
    """The node's CRI; all pods of the test are removed after it, even if it failed."""
    node.ensure_running()
    yield node.cri
    node.ensure_running()
    node.remove_pods()


@contextlib.contextmanager
def machine_on(containerd: Containerd, registry: Registry) -> Iterator[Machine]:
    """A machine with this containerd, on which nothing runs yet."""
    pause = {"Entrypoint": ["sleep", "2147483647"], "Cmd": []}
    layers = [images.layer_tar(images.busybox_files())]
    images.push(registry.url, "recovery-pause:1", {"amd64": images.image(layers, pause)})
    machine = Machine(containerd, host=HOST, registry=registry.url, pause=PAUSE, image=BUSYBOX)
    try:
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="module", params=containerds(), ids=lambda containerd: containerd.name)
def machine(request: pytest.FixtureRequest, registry: Registry) -> Iterator[Machine]:
    with machine_on(request.param, registry) as machine:
        yield machine


@pytest.fixture
def served(machine: Machine) -> Iterator[Machine]:
    """The machine with our server on it, without pods before and after."""
    machine.start_containerd()
    machine.start_server()
    machine.cri.pull(BUSYBOX)
    yield machine
    machine.clear()


@pytest.fixture
def idle(machine: Machine) -> Iterator[Machine]:
    """The machine with nothing running before and after."""
    yield machine
    machine.clear()
