"""The leak check finds everything that a pod of ours holds, and nothing of others on the
machine."""

from __future__ import annotations

import secrets
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import cgroups
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.leaks import Holdings
from tests.harness.node import Node
from tests.harness.waiting import wait_until

from .conftest import BUSYBOX


def test_everything_that_a_pod_holds_is_found_until_it_is_removed(cri: Cri, node: Node) -> None:
    idle = Holdings.of([node.marks])
    config = pod_config("held")
    pod = cri.run_pod(config)
    container = cri.create(pod, container_config(BUSYBOX, "sleep", "1000"), config)
    cri.start(container)

    def processes() -> list[str]:
        return Holdings.of([node.marks]).since(idle)["processes"]

    # runc has started it when the call returns, but it may not have executed its command yet
    wait_until(lambda: any(line.endswith(" sleep 1000") for line in processes()))
    held = Holdings.of([node.marks]).since(idle)
    assert any("containerd-shim-runc-v2" in line for line in held["processes"])
    assert any(where.endswith("/rootfs") for where in held["mounts"])
    assert len(held["network_namespaces"]) == 1
    assert any(name.startswith("veth") for name in held["links"])
    assert {pod, container} <= {name[-64:] for name in _without_scope(held["cgroups"])}
    assert len(held["ip_leases"]) == 1
    assert any(pod in rule for rule in held["firewall_rules"])  # ipMasq of the bridge plugin
    node.remove_pods()
    ended = {"links": [node.bridge]}  # the bridge stays for the next pod
    wait_until(lambda: Holdings.of([node.marks]).since(idle) in ({}, ended))


def test_leaks_of_a_failed_attempt_are_reported_too(cri: Cri, node: Node) -> None:
    config = pod_config("failing")
    config.linux.sysctls["net.nonsense"] = "1"
    before = node.marks.names().copy()
    with pytest.raises(Exception, match="nonsense"):
        cri.run_pod(config)
    new = node.marks.names() - before
    assert any(name.startswith("cni-") for name in new)
    assert any(len(name) == 64 for name in new)


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What another runtime's pod would hold, by kind."""
    namespace = f"cni-{uuid.uuid4()}"
    container = secrets.token_hex(32)
    link = f"veth{secrets.token_hex(4)}"
    mount = tmp_path / "rootfs"
    mount.mkdir()
    parent = cgroups.roots()[0] / f"other-{secrets.token_hex(4)}"
    with ExitStack() as undo:

        def run(command: str, then: str) -> None:
            subprocess.run(command.split(), check=True)
            undo.callback(subprocess.run, then.split(), check=True)

        run(f"ip netns add {namespace}", then=f"ip netns del {namespace}")
        run(f"ip link add {link} type veth", then=f"ip link del {link}")
        run(f"mount -t tmpfs none {mount}", then=f"umount {mount}")
        for cgroup in (parent, parent / container):
            cgroup.mkdir()
            undo.callback(cgroup.rmdir)
        shim = undo.enter_context(
            subprocess.Popen(["containerd-shim-runc-v2", "1000"], executable="/bin/sleep")
        )
        undo.callback(shim.kill)
        yield {
            "processes": str(shim.pid),
            "network_namespaces": namespace,
            "links": link,
            "mounts": str(mount),
            "cgroups": str(parent / container),
        }


def test_objects_of_others_are_not_counted(node: Node, foreign: dict[str, str]) -> None:
    held = Holdings.now()
    for kind, one in foreign.items():
        assert one not in {name.split()[0] for name in getattr(held, kind)}


def _without_scope(names: list[str]) -> list[str]:
    return [name.removesuffix(".scope") for name in names]
