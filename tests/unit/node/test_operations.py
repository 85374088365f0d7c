"""What the server reports about its node."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generated.containerd import introspection_pb2
from generated.cri import api_pb2
from generated.plans import (
    NodeStatusPlan,
    UpdateRuntimeConfigPlan,
    plan_update_runtime_config,
)
from runtime.cni import config as cni_config
from runtime.cni.config import CniList
from runtime.config.tables import CniTable, Config
from runtime.errors import InvalidArgument, Unknown
from runtime.lookups.handlers import Handlers
from runtime.node.operations import Node
from runtime.transforms.facts import Handler


class Network:
    """A network with or without a problem."""

    def __init__(self, problem: str | None = None, *networks: CniList) -> None:
        self._problem = problem
        self.networks = networks

    handlers: tuple[str, ...] = ()

    def problem(self, handler: str = "") -> str | None:
        return self._problem

    async def status(self) -> str | None:
        return self._problem


def containerd(**deprecations: str) -> Any:
    async def server(request: object, **_: float) -> introspection_pb2.ServerResponse:
        warnings = [
            introspection_pb2.DeprecationWarning(id=name, message=message)
            for name, message in deprecations.items()
        ]
        return introspection_pb2.ServerResponse(deprecations=warnings)

    return SimpleNamespace(introspection=SimpleNamespace(Server=server))


def node(
    *,
    daemon: Any = None,
    network: Network | None = None,
    handler: Handler | None = None,
    config: Config | None = None,
) -> Node:
    default = handler or Handler("runc")
    return Node(
        containerd=daemon or containerd(),
        network=network or Network(),
        handlers=Handlers(default),
        config=config or Config(),
    )


async def conditions(of: Node) -> dict[str, api_pb2.RuntimeCondition]:
    answer = await of.status(NodeStatusPlan(verbose=False))
    return {condition.type: condition for condition in answer.status.conditions}


async def test_a_healthy_node_is_ready() -> None:
    found = await conditions(node())
    assert {name: condition.status for name, condition in found.items()} == {
        "RuntimeReady": True,
        "NetworkReady": True,
        "ContainerdHasNoDeprecationWarnings": True,
    }
    assert not any(condition.reason or condition.message for condition in found.values())


async def test_a_missing_network_is_explained() -> None:
    found = (await conditions(node(network=Network("no config"))))["NetworkReady"]
    assert not found.status
    assert found.reason == "NetworkPluginNotReady"
    assert found.message == "Network plugin returns error: no config"


async def test_deprecations_of_the_daemon_are_passed_on() -> None:
    found = await conditions(node(daemon=containerd(old="use new")))
    condition = found["ContainerdHasNoDeprecationWarnings"]
    assert not condition.status
    assert json.loads(condition.message) == {"old": "use new"}


async def test_deprecations_can_be_ignored_by_their_id() -> None:
    config = Config(ignore_deprecation_warnings=("old",))
    found = await conditions(node(daemon=containerd(old="use new"), config=config))
    assert found["ContainerdHasNoDeprecationWarnings"].status


async def test_handlers_are_sorted_and_the_default_has_no_name() -> None:
    handler = Handler("runc", recursive_read_only=True)
    answer = await node(handler=handler).status(NodeStatusPlan(verbose=False))
    assert [entry.name for entry in answer.runtime_handlers] == ["", "runc"]
    assert all(entry.features.recursive_read_only_mounts for entry in answer.runtime_handlers)
    assert answer.features.supplemental_groups_policy


async def test_only_the_verbose_status_has_configurations() -> None:
    assert not (await node().status(NodeStatusPlan(verbose=False))).info
    info = (await node().status(NodeStatusPlan(verbose=True))).info
    assert json.loads(info["serverConfig"])["containerd"]["snapshotter"] == "overlayfs"
    # words as they are, objects as JSON: crictl shows both
    assert info["lastCNILoadStatus"] == info["lastCNILoadStatus.default"] == "OK"
    assert info["golang"].startswith("none: Python 3")


BUILT_IN = Path(__file__).parent / "builtin_status.json"
"""The output of ``crictl info`` for containerd 2.1.9 with its built-in plugin and a bridge
network."""


def shape(value: Any) -> Any:
    """The keys and types of a JSON value, without the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value)


async def test_the_verbose_status_has_the_built_in_plugins_shape() -> None:
    theirs = json.loads(BUILT_IN.read_text())
    config = Config(max_container_log_line_size=4096)
    source = theirs["cniconfig"]["Networks"][1]["Config"]["Source"].encode()
    network = Network(None, cni_config.parse(source))
    answer = await node(config=config, network=network).status(NodeStatusPlan(verbose=True))
    ours = json.loads(answer.info["config"])
    assert ours["maxContainerLogLineSize"] == 4096
    # also shown by containerd 1.x, and compared by kubeadm
    assert ours.pop("sandboxImage") == "registry.k8s.io/pause:3.10.2"
    assert ours["containerd"].pop("snapshotter") == "overlayfs"
    # a runc option that containerd 2 dropped
    del ours["containerd"]["runtimes"]["runc"]["options"]["NoPivotRoot"]
    ours["cni"]["binDirs"] = ["/x"]
    assert shape(ours) == shape(theirs["config"])
    shown = json.loads(answer.info["cniconfig"])
    # the loopback has no plugin here
    del theirs["cniconfig"]["Networks"][0]
    assert shown["Networks"] == theirs["cniconfig"]["Networks"]
    assert shape(shown) == shape(theirs["cniconfig"]) | {"PluginDirs": [str, str]}


@pytest.mark.parametrize(
    ("systemd", "driver"), [(True, api_pb2.SYSTEMD), (False, api_pb2.CGROUPFS)]
)
async def test_the_cgroup_driver_is_that_of_the_default_handler(
    systemd: bool, driver: api_pb2.CgroupDriver
) -> None:
    made = node(handler=Handler("runc", systemd_cgroup=systemd))
    answer = await made.runtime_config(api_pb2.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == driver


def update(pod_cidr: str) -> UpdateRuntimeConfigPlan:
    network = api_pb2.NetworkConfig(pod_cidr=pod_cidr)
    config = api_pb2.RuntimeConfig(network_config=network)
    return plan_update_runtime_config(api_pb2.UpdateRuntimeConfigRequest(runtime_config=config))


def with_template(tmp_path: Path, text: str) -> Config:
    template = tmp_path / "template"
    template.write_text(text)
    cni = CniTable(conf_dir=str(tmp_path / "net.d"), conf_template=str(template))
    return Config(cni=cni)


async def test_the_template_is_filled_in_while_the_network_is_missing(tmp_path: Path) -> None:
    config = with_template(tmp_path, "{{.PodCIDR}}")
    await node(config=config, network=Network("no config")).update_runtime_config(
        update("10.0.0.0/8,fd00::/64")
    )
    written = tmp_path / "net.d" / "10-containerd-net.conflist"
    assert written.read_text() == "10.0.0.0/8"


@pytest.mark.parametrize(
    ("problem", "cidr"), [(None, "10.0.0.0/8"), ("no config", "")], ids=["ready", "no CIDR"]
)
async def test_the_template_is_left_alone(tmp_path: Path, problem: str | None, cidr: str) -> None:
    config = with_template(tmp_path, "{{.PodCIDR}}")
    await node(config=config, network=Network(problem)).update_runtime_config(update(cidr))
    assert not (tmp_path / "net.d").exists()


async def test_a_wrong_template_is_named(tmp_path: Path) -> None:
    config = with_template(tmp_path, "{{.Foo}}")
    made = node(config=config, network=Network("no config"))
    with pytest.raises(Unknown, match=r"template.*\.Foo"):
        await made.update_runtime_config(update("10.0.0.0/8"))


async def test_pod_cidrs_are_trimmed(tmp_path: Path) -> None:
    config = with_template(tmp_path, "{{range .PodCIDRRanges}}<{{.}}>{{end}}")
    made = node(config=config, network=Network("no config"))
    await made.update_runtime_config(update(" 10.0.0.0/24, fd00::/64 "))
    written = tmp_path / "net.d" / "10-containerd-net.conflist"
    assert written.read_text() == "<10.0.0.0/24><fd00::/64>"


@pytest.mark.parametrize("cidr", ["10.0.0.0/33", "nonsense", "10.0.0.0/24,", "10.0.0.1"])
async def test_a_wrong_pod_cidr_is_refused_with_or_without_a_template(cidr: str) -> None:
    with pytest.raises(InvalidArgument, match=r"network_config\.pod_cidr: .*10\.244\.1\.0/24"):
        update(cidr)
