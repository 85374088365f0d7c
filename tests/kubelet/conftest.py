"""``nox -s kubelet``: a real kubelet on our server, without an API server, running static pods.

``--containerd system|sid|trixie|DIR`` chooses the containerd; the newest that is there otherwise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import images
from tests.harness.kubelet import Kubelet, Manifest, container, missing, pod
from tests.harness.leaks import Holdings
from tests.harness.node import Containerd, Node, containerds, find_containerd
from tests.harness.registry import Registry, free_port

HOST = "test.example"
BUSYBOX = f"{HOST}/busybox:1"
BUSY = "while :; do :; done"
LOGS = Path("build/kubelet")
UNREACHABLE = "down.example"  # a registry at whose address nothing listens


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--containerd", help="system, sid, trixie or a directory (default: newest)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    here = Path(__file__).parent
    for item in items:
        if reason and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def until(path: str) -> str:
    """A script that goes on once the test has made a file: what it looks at before lasts as long as
    it needs."""
    return f"until [ -e {path} ]; do sleep 0.1; done"


def busy() -> Manifest:
    """A pod whose statistics are all above zero: it writes a file and uses its CPU limit."""
    limits = {"cpu": "200m", "memory": "64Mi"}
    script = f"head -c 1048576 /dev/zero > /file; {BUSY}"
    app = container(BUSYBOX, script, resources={"limits": limits})
    return pod(app, terminationGracePeriodSeconds=0)


@pytest.fixture(scope="session")
def containerd(request: pytest.FixtureRequest) -> Containerd:
    name = request.config.getoption("--containerd")
    return find_containerd(name) if name else containerds()[-1]


def _keep(log: Path) -> None:
    """Copy a log to where it is still found after the run."""
    LOGS.mkdir(parents=True, exist_ok=True)
    shutil.copy(log, LOGS)


@pytest.fixture(scope="session")
def node(containerd: Containerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    before = Holdings.now()
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        busybox = images.image([images.layer_tar(images.busybox_files())])
        images.push(registry.url, "busybox:1", {"amd64": busybox})
        mirrors = {HOST: registry.url, UNREACHABLE: f"http://127.0.0.1:{free_port()}"}
        with Node(containerd=containerd, registry_mirrors=mirrors) as node:
            node.cri.pull(BUSYBOX)
            yield node
            _keep(node.directory / "server.log")
    assert Holdings.now().since(before) == {}


@pytest.fixture(scope="session")
def session_kubelet(node: Node) -> Iterator[Kubelet]:
    kubelet = Kubelet(node)
    try:
        yield kubelet
    finally:
        try:
            kubelet.close()
        finally:
            _keep(kubelet.log_file)


@pytest.fixture
def kubelet(session_kubelet: Kubelet) -> Iterator[Kubelet]:
    """The kubelet; the test's pods are removed after it, while the next test runs."""
    yield session_kubelet
    session_kubelet.remove_pods()
