"""Whether a handler offers user namespaces, depending on its binary, kernel and snapshotter."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from runtime.containerd.capabilities import Snapshotter
from runtime.lookups.handlers import Handlers
from runtime.lookups.user_namespaces import Kernel, lists_idmapped_mounts, probe, support
from runtime.transforms.facts import Handler

RUNC_1_3 = {
    "mountOptions": ["rro"],
    "linux": {"namespaces": ["user"], "mountExtensions": {"idmap": {"enabled": True}}},
}
ROOT = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"


def overlayfs(*capabilities: str) -> Snapshotter:
    return Snapshotter("overlayfs", ROOT, frozenset(capabilities))


@pytest.mark.parametrize(
    ("features", "offered"),
    [
        (RUNC_1_3, True),
        ({"linux": {"namespaces": ["user"]}}, False),  # runc 1.1
        ({"linux": {"namespaces": ["user"], "mountExtensions": {"idmap": {}}}}, False),
        ({"linux": {"namespaces": None, "mountExtensions": {"idmap": {"enabled": True}}}}, False),
        ({"linux": [], "mountExtensions": 7}, False),
        ({}, False),
    ],
)
def test_features_of_the_binary(features: dict[str, Any], offered: bool) -> None:
    assert lists_idmapped_mounts(features) is offered


@pytest.mark.parametrize(
    ("kernel", "snapshotter", "by_copy"),
    [
        pytest.param(Kernel(), overlayfs("remap-ids", "only-remap-ids"), False, id="containerd 2"),
        pytest.param(Kernel(), overlayfs(), True, id="containerd 1"),
        pytest.param(Kernel(), None, True, id="not listed"),
        pytest.param(
            Kernel(unmappable={ROOT: "zfs"}), overlayfs("remap-ids"), True, id="slow_chown"
        ),
        pytest.param(Kernel(unmappable={"/x": "zfs"}), overlayfs("remap-ids"), False, id="other"),
    ],
)
def test_how_files_get_their_owners(
    kernel: Kernel, snapshotter: Snapshotter | None, by_copy: bool
) -> None:
    found = support(RUNC_1_3, kernel, snapshotter)
    assert (found.problem, found.owners_by_copy) == ("", by_copy)


@pytest.mark.parametrize(
    ("features", "kernel", "snapshotter", "problem"),
    [
        ({}, Kernel(), overlayfs("remap-ids"), "has no idmapped mounts .* runc 1.2 or newer has"),
        (RUNC_1_3, Kernel("limit is 0"), overlayfs("remap-ids"), "^limit is 0$"),
        (
            RUNC_1_3,
            Kernel(),
            overlayfs("only-remap-ids"),
            "snapshotter overlayfs cannot map owners: it needs Linux 5.19 or newer; or set slow_c",
        ),
        (
            RUNC_1_3,
            Kernel(unmappable={ROOT: "its file system is old"}),
            overlayfs("remap-ids", "only-remap-ids"),
            "cannot map owners: its file system is old; or set slow_chown = true in "
            r'\[plugins."io.containerd.snapshotter.v1.overlayfs"\]',
        ),
    ],
)
def test_why_user_namespaces_are_not_supported(
    features: dict[str, Any], kernel: Kernel, snapshotter: Snapshotter, problem: str
) -> None:
    assert re.search(problem, support(features, kernel, snapshotter).problem)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_kernel_is_tried() -> None:
    found = probe(["/tmp", "/proc"])
    assert found.problem == ""
    assert set(found.unmappable or {}) == {"/proc"}


def test_a_kernel_without_user_namespaces_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install util-linux" in probe([]).problem


def test_the_nodes_network_needs_recursive_read_only_mounts_as_well() -> None:
    usual = Handler("runc", user_namespaces_problem="old")
    for other, offered in (
        (Handler("new", user_namespaces_problem="", recursive_read_only=True), True),
        (Handler("new", user_namespaces_problem="", recursive_read_only=False), False),
        (Handler("new", recursive_read_only=True), False),
    ):
        assert Handlers(usual, other).user_namespaces_on_node_network is offered
