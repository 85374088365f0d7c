"""CNI calls from a plugin's point of view, with a plugin that records every call."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from generated.cri import api_pb2
from runtime.cni import network as cni
from runtime.cni import plugin as cni_plugin
from runtime.cni.cache import ResultCache
from runtime.cni.network import Network, Operated
from runtime.cni.result import select_pod_ip, summarise
from runtime.errors import InvalidArgument, Unavailable, Unknown
from tests.harness import cni_recorder
from tests.harness.waiting import PATIENCE, until

NETNS = "/proc/self/ns/net"
"""A namespace that exists as long as this process: the recorder does nothing in it."""

POD = api_pb2.PodSandboxConfig(
    metadata=api_pb2.PodSandboxMetadata(name="web", namespace="default", uid="uid-1", attempt=1),
    annotations={"a": "b"},
)


@dataclass(frozen=True, slots=True)
class Settings:
    bin_dirs: tuple[str, ...]
    conf_dir: str
    max_conf_num: int = 1
    setup_serially: bool = False
    ip_pref: str = ""


class Lab:
    """A CNI directory, a bin directory full of recorders, a result cache."""

    def __init__(self, directory: Path) -> None:
        self.bin, self.conf, self.state = directory / "bin", directory / "conf", directory / "lib"
        self.record = directory / "calls"
        self.conf.mkdir()
        cni_recorder.install(self.bin, ("first", "second", "third"))

    def write(self, file: str, *plugins: dict[str, Any], **keys: Any) -> None:
        listed = [{"record": str(self.record)} | plugin for plugin in plugins]
        whole = {"cniVersion": "1.0.0", "name": file.split(".")[0], "plugins": listed} | keys
        (self.conf / file).write_text(json.dumps(whole))

    @asynccontextmanager
    async def network(
        self,
        of_handlers: dict[str, tuple[str, int]] | None = None,
        operated: Operated | None = None,
        **settings: Any,
    ) -> AsyncIterator[Network]:
        network = Network(
            Settings((str(self.bin),), str(self.conf), **settings),
            of_handlers=of_handlers,
            cache=ResultCache(str(self.state)),
            operated=operated,
        )
        await network.start()
        try:
            yield network
        finally:
            await network.stop()

    def calls(self) -> list[dict[str, Any]]:
        return cni_recorder.calls(self.record)

    def order(self) -> list[tuple[str, str]]:
        return [(call["command"], call["plugin"]) for call in self.calls()]

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.state.glob("results/*"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


async def test_add_chains_results_and_del_goes_back(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "key": 1}, {"type": "second"})
    async with lab.network() as network:
        got = await network.add("sb1", NETNS, POD)
        assert (got.ip, got.additional_ips) == ("10.9.8.7", ())
        assert lab.cached() == ["net-sb1-eth0"]
        await network.delete("sb1", NETNS, POD, had_result=True)
    assert lab.cached() == []
    assert lab.order() == [
        ("ADD", "first"),
        ("ADD", "second"),
        ("DEL", "second"),
        ("DEL", "first"),
    ]
    first, second, *undone = (call["stdin"] for call in lab.calls())
    assert (first["name"], first["cniVersion"], first["key"]) == ("net", "1.0.0", 1)
    assert "prevResult" not in first
    result = cni_recorder.ADDRESS | {"cniVersion": "1.0.0"}
    assert second["prevResult"] == result
    assert [each["prevResult"] for each in undone] == [result, result]


async def test_a_handler_may_have_networks_of_its_own(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"})
    own = lab.conf.parent / "own"
    own.mkdir()
    whole = {"type": "second", "record": str(lab.record)}
    for name in ("a", "b"):
        plugins = {"cniVersion": "1.0.0", "name": name, "plugins": [whole]}
        (own / f"{name}.conflist").write_text(json.dumps(plugins))
    async with lab.network({"kata": (str(own), 0), "empty": (f"{own}/none", 1)}) as network:
        await network.add("sb1", NETNS, POD, handler="kata")
        await network.add("sb2", NETNS, POD, handler="runc")
        assert lab.cached() == ["a-sb1-eth0", "b-sb1-eth1", "net-sb2-eth0"]
        assert network.problem("kata") is None
        with pytest.raises(Unavailable, match="the pod network is not ready"):
            await network.add("sb3", NETNS, POD, handler="empty")
        # without its cache, a pod is removed with the networks of its handler
        shutil.rmtree(lab.state)
        await network.delete("sb1", NETNS, POD, had_result=True, handler="kata")
    assert lab.order()[-2:] == [("DEL", "second"), ("DEL", "second")]


async def test_operations_are_counted(lab: Lab) -> None:
    counted: list[tuple[str, bool]] = []

    def operated(operation: str, seconds: float, *, succeeded: bool) -> None:
        assert seconds > 0
        counted.append((operation, succeeded))

    lab.write("net.conflist", {"type": "first", "fail": {"DEL": {"code": 5, "msg": "disk"}}})
    async with lab.network(operated=operated) as network:
        await network.add("sb1", NETNS, POD)
        with pytest.raises(Unknown, match="disk"):
            await network.delete("sb1", NETNS, POD, had_result=True)
    assert counted == [("set_up_pod", True), ("tear_down_pod", False)]


async def test_the_environment_is_the_servers_and_what_cni_specifies(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in libcni, so that variables the unit sets for plugins (KUBECONFIG, proxies) exist."""
    monkeypatch.setenv("KUBECONFIG", "/etc/cni/kubeconfig")
    monkeypatch.setenv("CNI_IFNAME", "of somebody else")
    lab.write("net.conflist", {"type": "first"})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
    (call,) = lab.calls()
    arguments = call["env"].pop("CNI_ARGS")
    assert dict(pair.split("=") for pair in arguments.split(";")) == {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": "default",
        "K8S_POD_NAME": "web",
        "K8S_POD_INFRA_CONTAINER_ID": "sb1",
        "K8S_POD_UID": "uid-1",
    }
    assert call["env"] | {"LC_CTYPE": ""} == {
        **os.environ,
        "LC_CTYPE": "",
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "sb1",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(lab.bin),
    }


async def test_a_plugin_receives_only_the_capabilities_it_requests(lab: Lab) -> None:
    lab.write(
        "net.conflist",
        {"type": "first", "capabilities": {"portMappings": True, "dns": False, "ips": True}},
        {"type": "second"},
    )
    pod = api_pb2.PodSandboxConfig()
    pod.CopyFrom(POD)
    pod.port_mappings.add(container_port=80, host_port=8080)
    pod.dns_config.servers.append("1.1.1.1")
    async with lab.network() as network:
        await network.add("sb1", NETNS, pod)
        await network.delete("sb1", NETNS, POD, had_result=True)
    first, second, _, undone = (call["stdin"] for call in lab.calls())
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    assert first["runtimeConfig"] == {"portMappings": mappings}
    assert "runtimeConfig" not in second
    assert undone["runtimeConfig"] == first["runtimeConfig"]  # from the cache


async def test_the_cache_has_libcnis_format(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
    file = lab.state / "results/net-sb1-eth0"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    cached = json.loads(file.read_text())
    assert {
        key: cached[key] for key in ("kind", "containerId", "ifName", "networkName", "netns")
    } == {
        "kind": "cniCacheV1",
        "containerId": "sb1",
        "ifName": "eth0",
        "networkName": "net",
        "netns": NETNS,
    }
    assert ["K8S_POD_NAME", "web"] in cached["cniArgs"]
    assert cached["capabilityArgs"] == {"io.kubernetes.cri.pod-annotations": {"a": "b"}}
    assert cached["result"]["ips"][0]["address"] == "10.9.8.7/24"


async def test_del_undoes_what_add_did_when_the_config_has_changed(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "key": "old"})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
    (lab.conf / "net.conflist").unlink()
    lab.write("other.conflist", {"type": "second"})
    async with lab.network() as network:
        await network.delete("sb1", NETNS, POD, had_result=True)
        await network.delete(
            "sb1", NETNS, POD, had_result=False
        )  # nothing known: the current config
    calls = lab.calls()
    assert lab.order() == [("ADD", "first"), ("DEL", "first"), ("DEL", "second")]
    assert calls[1]["stdin"]["key"] == "old"


async def test_a_pod_of_the_builtin_plugin_can_be_deleted(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
        cached = json.loads((lab.state / "results/net-sb1-eth0").read_text())
        cached |= {"networkName": "cni-loopback", "ifName": "lo"}
        (lab.state / "results/cni-loopback-sb1-lo").write_text(json.dumps(cached))
        (lab.state / "results/broken-sb1-eth7").write_text("{")
        await network.delete("sb1", NETNS, POD, had_result=True)
    assert lab.order() == [("ADD", "first"), ("DEL", "first")]
    assert lab.cached() == ["broken-sb1-eth7"]


async def test_a_missing_namespace_is_passed_as_empty(lab: Lab, tmp_path: Path) -> None:
    lab.write(
        "net.conflist",
        {"type": "first", "fail": {"DEL": {"code": 5, "msg": "no such file or directory"}}},
    )
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
        await network.delete("sb1", str(tmp_path / "gone"), POD, had_result=True)
    assert lab.calls()[1]["env"]["CNI_NETNS"] == ""
    assert lab.cached() == []


async def test_a_failed_add_names_the_plugin_and_is_undone_by_delete(lab: Lab) -> None:
    failure = {"code": 111, "msg": "no addresses left", "details": "10.0.0.0/30"}
    failures = {"ADD": failure, "DEL": {"code": 1, "msg": "never heard of it"}}
    lab.write("net.conflist", {"type": "first"}, {"type": "second", "fail": failures})
    async with lab.network() as network:
        with pytest.raises(
            Unknown,
            match="^network net of pod sb1: CNI plugin second failed at ADD: "
            r"no addresses left; 10.0.0.0/30 \(code 111\)$",
        ):
            await network.add("sb1", NETNS, POD)
        assert lab.cached() == []
        await network.delete("sb1", NETNS, POD, had_result=False)
    assert lab.order()[2:] == [("DEL", "second"), ("DEL", "first")]
    assert "prevResult" not in lab.calls()[2]["stdin"]


async def test_a_failed_del_is_raised_and_can_be_repeated(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "fail": {"DEL": {"code": 5, "msg": "disk"}}})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
        for _ in range(2):
            with pytest.raises(Unknown, match="CNI plugin first failed at DEL: disk"):
                await network.delete("sb1", NETNS, POD, had_result=True)
    assert lab.cached() == ["net-sb1-eth0"]


async def test_a_del_that_finds_nothing_succeeds(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "fail": {"DEL": {"code": 3, "msg": "not found"}}})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
        await network.delete("sb1", NETNS, POD, had_result=True)
    assert lab.cached() == []


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ({"print": {"ADD": ""}}, r"its result is not a JSON object: '\\n'"),
        ({"print": {"ADD": "[]"}}, "its result is not a JSON object"),
        ({"print": {"ADD": "oops"}, "exit": {"ADD": 3}}, r"oops \(exit code 3\)"),
        ({"print": {"ADD": ""}, "exit": {"ADD": 1}}, r"it gave no reason \(exit code 1\)"),
    ],
)
async def test_invalid_plugin_output_is_reported(
    lab: Lab, behaviour: dict[str, Any], message: str
) -> None:
    lab.write("net.conflist", {"type": "first", **behaviour})
    async with lab.network() as network:
        with pytest.raises(Unknown, match=f"CNI plugin first failed at ADD: {message}"):
            await network.add("sb1", NETNS, POD)


async def test_try_again_later_is_unavailable(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "fail": {"ADD": {"code": 11, "msg": "soon"}}})
    async with lab.network() as network:
        with pytest.raises(Unavailable, match=r"soon \(code 11\)"):
            await network.add("sb1", NETNS, POD)


async def go_on(plugin: int) -> None:
    """Let a plugin that hangs continue: end the child that it waits for."""
    while not (child := child_of(plugin)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    os.kill(child, signal.SIGKILL)


async def test_a_hanging_plugin_is_killed_with_its_children(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write("net.conflist", {"type": "first", "hang": ["ADD"]})
    async with lab.network() as network:
        for seconds in (1.0, 5.0, 50.0):  # a busy machine may need more to start the plugin
            monkeypatch.setitem(cni.PLUGIN_SECONDS, "ADD", seconds)
            with pytest.raises(Unknown, match=rf"killed after {seconds:g} s"):
                await network.add("sb1", NETNS, POD)
            if lab.calls():
                break
    await gone(lab.calls()[0]["pid"])


async def test_a_cancelled_add_ends_before_the_deletion(lab: Lab) -> None:
    """What an ADD that is killed half-way leaves, no DEL may find."""
    lab.write("net.conflist", {"type": "first", "hang": ["ADD"]})
    async with lab.network() as network:
        adding = asyncio.create_task(network.add("sb1", NETNS, POD))
        await until(lab.calls)
        adding.cancel()
        await asyncio.sleep(0.1)
        assert not adding.done()
        await go_on(lab.calls()[0]["pid"])
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert lab.cached()
        await network.delete("sb1", NETNS, POD, had_result=True)
    assert lab.order() == [("ADD", "first"), ("DEL", "first")]
    assert lab.cached() == []


async def test_a_cancelled_add_that_hangs_is_killed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni, "GRACE", 0.2)
    lab.write("net.conflist", {"type": "first", "hang": ["ADD"]})
    async with lab.network() as network:
        adding = asyncio.create_task(network.add("sb1", NETNS, POD))
        await until(lab.calls)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
    await gone(lab.calls()[0]["pid"])


async def cancelled_deletion(lab: Lab, network: Network) -> None:
    """Add a pod, and cancel its deletion while the plugin hangs in it."""
    await network.add("sb1", NETNS, POD)
    deleting = asyncio.create_task(network.delete("sb1", NETNS, POD, had_result=True))
    await until(lambda: len(lab.calls()) == 2)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting


async def test_a_cancelled_delete_continues_and_the_next_one_waits_for_it(lab: Lab) -> None:
    """A plugin that is killed half-way can leave what a second DEL no longer finds."""
    lab.write("net.conflist", {"type": "first", "hang": ["DEL"]})
    async with lab.network() as network:
        await cancelled_deletion(lab, network)
        again = asyncio.create_task(network.delete("sb1", NETNS, POD, had_result=True))
        await asyncio.sleep(0.1)
        assert not again.done()
        await go_on(lab.calls()[1]["pid"])
        await again
    assert lab.order() == [("ADD", "first"), ("DEL", "first")]
    assert lab.cached() == []


async def test_a_deletion_that_hangs_without_a_caller_is_killed_and_started_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni, "GRACE", 0.2)
    lab.write("net.conflist", {"type": "first", "hang": ["DEL"]})
    async with lab.network() as network:
        await cancelled_deletion(lab, network)
        again = asyncio.create_task(network.delete("sb1", NETNS, POD, had_result=True))
        await until(lambda: len(lab.calls()) == 3)
        await gone(lab.calls()[1]["pid"])
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again
        await gone(lab.calls()[2]["pid"])
    assert lab.order() == [("ADD", "first"), ("DEL", "first"), ("DEL", "first")]


def child_of(process: int) -> int:
    """The process that a hanging plugin waits for; 0 before it is there."""
    return int(Path(f"/proc/{process}/task/{process}/children").read_text() or 0)


async def gone(group: int) -> None:
    """Return when no process of the group is left, after the plugin itself was reaped."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
    os.killpg(group, signal.SIGKILL)
    raise AssertionError("the plugin or its child lives on")


async def test_networks_become_interfaces_in_order(lab: Lab) -> None:
    other = {"ips": [{"address": "fd00::7/64"}], "interfaces": [{"name": "eth1"}]}
    other["ips"][0]["interface"] = 0  # type: ignore[assignment]
    lab.write("a.conflist", {"type": "first"})
    lab.write("b.conflist", {"type": "second", "answer": {"ADD": other}})
    for serially in (False, True):
        async with lab.network(max_conf_num=0, setup_serially=serially) as network:
            got = await network.add("sb1", NETNS, POD)
            await network.delete("sb1", NETNS, POD, had_result=True)
        assert got.ip == "10.9.8.7"
        assert got.additional_ips == ()
        assert got.result["Interfaces"]["eth1"]["IPConfigs"] == [{"IP": "fd00::7", "Gateway": ""}]
    added = [call for call in lab.calls() if call["command"] == "ADD"]
    assert sorted((each["plugin"], each["env"]["CNI_IFNAME"]) for each in added) == [
        ("first", "eth0"),
        ("first", "eth0"),
        ("second", "eth1"),
        ("second", "eth1"),
    ]


async def test_a_failure_of_one_network_is_raised_after_the_others_finished(lab: Lab) -> None:
    lab.write("a.conflist", {"type": "first", "fail": {"ADD": {"code": 7, "msg": "no"}}})
    lab.write("b.conflist", {"type": "second"})
    async with lab.network(max_conf_num=0) as network:
        with pytest.raises(Unknown, match="CNI plugin first failed at ADD"):
            await network.add("sb1", NETNS, POD)
        assert lab.cached() == ["b-sb1-eth1"]
        await network.delete("sb1", NETNS, POD, had_result=True)  # strictly, both
    assert lab.cached() == []
    assert {("DEL", "first"), ("DEL", "second")} <= set(lab.order())


async def test_not_ready_without_config_or_plugin(lab: Lab) -> None:
    async with lab.network() as network:
        assert "no network config found" in str(network.problem())
        with pytest.raises(Unavailable, match=r"the pod network is not ready: .*no network"):
            await network.add("sb1", NETNS, POD)
        with pytest.raises(Unavailable, match="network of pod sb1 cannot be removed"):
            await network.delete("sb1", NETNS, POD, had_result=True)
        await network.delete("sb1", NETNS, POD, had_result=False)
    lab.write("net.conflist", {"type": "missing"})
    async with lab.network() as network:
        assert network.problem() == (
            f"{lab.conf}/net.conflist: CNI plugin missing is in none of {lab.bin}; install it there"
        )


async def test_status_is_called_for_lists_that_support_it(lab: Lab) -> None:
    fail = {"STATUS": {"code": 50, "msg": "agent is not up"}}
    lab.write("net.conflist", {"type": "first", "fail": fail})
    async with lab.network() as network:
        assert await network.status() is None
        assert lab.order() == []
    lab.write(
        "net.conflist", {"type": "second"}, {"type": "first", "fail": fail}, cniVersion="1.1.0"
    )
    async with lab.network() as network:
        assert await network.status() == (
            "CNI plugin first failed at STATUS: agent is not up (code 50)"
        )
    assert lab.order() == [("STATUS", "second"), ("STATUS", "first")]
    assert "CNI_CONTAINERID" not in lab.calls()[0]["env"]


async def test_gc_names_every_attachment_in_use_and_add_waits_for_it(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"}, {"type": "second"}, cniVersion="1.1.0")
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
    (lab.state / "results/net-x-sb9-eth0").write_text("not a result")
    other = (lab.state / "results/net-sb1-eth0").read_text().replace('"net"', '"net-x"')
    (lab.state / "results/net-x-sb8-eth0").write_text(other)
    lab.record.unlink()
    async with lab.network() as network:
        network.collect(["sb2"])
        await network.add("sb3", NETNS, POD)
    assert lab.order() == [("GC", "first"), ("GC", "second"), ("ADD", "first"), ("ADD", "second")]
    call = lab.calls()[0]
    assert call["stdin"]["cni.dev/valid-attachments"] == [
        {"containerID": "sb1", "ifname": "eth0"},
        {"containerID": "sb2", "ifname": "eth0"},
    ]
    assert call["stdin"]["cni.dev/attachments"] == call["stdin"]["cni.dev/valid-attachments"]
    assert "CNI_CONTAINERID" not in call["env"]


@pytest.mark.parametrize("keys", [{}, {"cniVersion": "1.1.0", "disableGC": True}])
async def test_gc_is_not_called_for_lists_without_it(lab: Lab, keys: dict[str, Any]) -> None:
    lab.write("net.conflist", {"type": "first"}, **keys)
    async with lab.network() as network:
        network.collect(["sb1"])
        await network.add("sb1", NETNS, POD)
    assert lab.order() == [("ADD", "first")]


async def test_a_gc_that_fails_or_hangs_does_not_block_pods(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cni.PLUGIN_SECONDS, "GC", 0.5)
    failing = {"type": "first", "fail": {"GC": {"code": 4, "msg": "unknown CNI_COMMAND"}}}
    hanging = {"type": "second", "hang": ["GC"]}
    lab.write("net.conflist", failing, hanging, cniVersion="1.1.0")
    async with lab.network() as network:
        network.collect([])
        await network.add("sb1", NETNS, POD)
    assert lab.order()[-1] == ("ADD", "second")


async def test_invalid_bandwidth_is_refused_by_add_and_ignored_by_delete(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"})
    pod = api_pb2.PodSandboxConfig(annotations={"kubernetes.io/ingress-bandwidth": "lots"})
    async with lab.network() as network:
        with pytest.raises(InvalidArgument, match="'lots' is not a quantity"):
            await network.add("sb1", NETNS, pod)
        await network.delete("sb1", NETNS, pod, had_result=False)
    assert lab.order() == [("DEL", "first")]


async def test_a_pod_without_address_is_refused(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first", "answer": {"ADD": {}}})
    async with lab.network() as network:
        with pytest.raises(Unknown, match="gave pod sb1 no address on eth0"):
            await network.add("sb1", NETNS, POD)


async def test_a_plugin_being_replaced_is_tried_again(lab: Lab) -> None:
    busy = lab.bin / "busy"
    shutil.copy("/bin/true", busy)
    busy.chmod(0o755)
    writer = os.open(busy, os.O_WRONLY)
    asyncio.get_running_loop().call_later(0.3, os.close, writer)
    assert await cni_plugin.call("busy", [str(lab.bin)], "VERSION", {}, {}, 5) == b""


@pytest.mark.parametrize(
    ("found", "preference", "expected"),
    [
        (["10.0.0.1"], "ipv6", ("10.0.0.1", ())),
        (["fd00::1", "10.0.0.1", "10.0.0.2"], "", ("10.0.0.1", ("fd00::1", "10.0.0.2"))),
        (["10.0.0.1", "fd00::1"], "ipv6", ("fd00::1", ("10.0.0.1",))),
        (["fd00::1", "10.0.0.1"], "cni", ("fd00::1", ("10.0.0.1",))),
        (["fd00::1", "fd00::2"], "ipv4", ("fd00::1", ("fd00::2",))),
    ],
)
def test_pod_ip_is_the_first_of_the_preferred_family(
    found: list[str], preference: str, expected: tuple[str, tuple[str, ...]]
) -> None:
    assert select_pod_ip(found, preference) == expected


def test_results_are_summarised_as_in_the_built_in_plugin() -> None:
    assert summarise([cni_recorder.ADDRESS]) == {
        "Interfaces": {
            "eth0": {
                "IPConfigs": [{"IP": "10.9.8.7", "Gateway": "10.9.8.1"}],
                "Mac": "",
                "Sandbox": "x",
                "PciID": "",
                "SocketPath": "",
            },
            "veth1": {
                "IPConfigs": None,
                "Mac": "02:00:00:00:00:02",
                "Sandbox": "",
                "PciID": "",
                "SocketPath": "",
            },
        },
        "DNS": [{}],
        "Routes": [{"dst": "0.0.0.0/0"}],
    }


def test_results_of_old_versions_are_understood() -> None:
    old = {"ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1"}, "ip6": {"ip": "FD00::1/64"}}
    assert summarise([old])["Interfaces"]["eth0"]["IPConfigs"] == [
        {"IP": "10.1.2.3", "Gateway": "10.1.2.1"},
        {"IP": "fd00::1", "Gateway": ""},
    ]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (
            {"ips": [{"address": "10.0.0.1/24", "interface": 3}]},
            "ips[0].interface must be the number",
        ),
        ({"ips": [{"address": "10.0.0.1/24", "interface": True}]}, "ips[0].interface must be"),
        ({"ips": [{"address": "10.0.0.1/24", "interface": -1}]}, "ips[0].interface must be"),
        (
            {"ips": [{"address": "somewhere"}]},
            "ips[0].address must be an address such as 10.0.0.2/24",
        ),
        ({"ips": [{}]}, "ips[0].address must be an address such as 10.0.0.2/24, not null"),
        (
            {"ips": [{"address": "10.0.0.1/24", "gateway": 1}]},
            "ips[0].gateway must be a string, not 1",
        ),
        ({"ips": {}}, "ips must be a list, not {}"),
        ({"ips": [None]}, "ips[0] must be an object, not null"),
        ({"interfaces": ["eth0"]}, 'interfaces[0] must be an object, not "eth0"'),
        ({"interfaces": [{"name": 1}]}, "interfaces[0].name must be a string, not 1"),
        ({"routes": [{"dst": []}]}, "routes[0].dst must be a string, not []"),
        ({"dns": []}, "dns must be an object, not []"),
        ({"ip4": {"ip": 5}}, "ip4.ip must be an address"),
        ({"cniVersion": 1}, "cniVersion must be a string, not 1"),
        ({"x": [float("inf")]}, "a number is not finite"),
    ],
)
async def test_a_part_of_a_wrong_type_is_named_with_its_plugin(
    lab: Lab, part: dict[str, Any], why: str
) -> None:
    text = json.dumps(cni_recorder.ADDRESS | part)
    lab.write("net.conflist", {"type": "first", "print": {"ADD": text}})
    async with lab.network() as network:
        with pytest.raises(Unknown) as failure:
            await network.add("sb1", NETNS, POD)
    wrong = f"CNI plugin first failed at ADD: its result is wrong: {why}"
    assert wrong in str(failure.value)


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("part", ["interfaces", "routes", "dns", "cniVersion"])
async def test_every_part_of_a_result_may_be_null_or_missing(
    lab: Lab, part: str, null: bool
) -> None:
    answer: dict[str, Any] = {**cni_recorder.ADDRESS, "ips": [{"address": "10.9.8.7/24"}]}
    answer[part] = None
    answer["interfaces"] = answer["interfaces"] and [{"name": "eth0", "mac": None, "sandbox": None}]
    if not null:
        del answer[part]
    lab.write("net.conflist", {"type": "first", "answer": {"ADD": answer}})
    async with lab.network() as network:
        assert (await network.add("sb1", NETNS, POD)).ip == "10.9.8.7"


@pytest.mark.parametrize("ips", [{"ips": None}, {"ips": []}, {}])
async def test_a_result_without_addresses_says_what_is_lacking(
    lab: Lab, ips: dict[str, Any]
) -> None:
    answer = {"interfaces": [{"name": "eth0"}], **ips}
    lab.write("net.conflist", {"type": "first", "answer": {"ADD": answer}})
    async with lab.network() as network:
        with pytest.raises(
            Unknown, match="gave pod sb1 no address on eth0: the network list lacks"
        ):
            await network.add("sb1", NETNS, POD)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "is nested deeper than 32 levels"),
        ('{"a":' * 40 + "1" + "}" * 40, "is nested deeper than 32 levels"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "is larger than 1 MiB"),
    ],
)
async def test_a_result_is_bounded(lab: Lab, text: str, why: str) -> None:
    lab.write("net.conflist", {"type": "first", "print": {"ADD": text}})
    async with lab.network() as network:
        with pytest.raises(Unknown, match=f"CNI plugin first failed at ADD: its result {why}"):
            await network.add("sb1", NETNS, POD)


async def test_a_missing_plugin_does_not_block_the_removal_of_its_pod(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cni, "_REPLACING_SECONDS", 0.01)
    given_up: list[str] = []
    lab.write("old.conflist", {"type": "first"}, {"type": "second"})
    async with lab.network() as network:
        network._given_up = given_up.append
        await network.add("sb1", NETNS, POD)
        (lab.bin / "second").unlink()
        (lab.conf / "old.conflist").unlink()
        lab.write("new.conflist", {"type": "third"})
        network._directory.reload()
        await network.delete("sb1", NETNS, POD, had_result=True)
        calls = [(call["plugin"], call["command"]) for call in lab.calls()[2:]]
        assert calls == [("first", "DEL"), ("third", "DEL")]
        assert "prevResult" not in lab.calls()[-1]["stdin"]
    assert (lab.cached(), given_up) == ([], ["cni"])


async def test_a_plugin_that_is_being_replaced_is_waited_for(lab: Lab) -> None:
    lab.write("net.conflist", {"type": "first"})
    async with lab.network() as network:
        await network.add("sb1", NETNS, POD)
        (lab.bin / "first").rename(lab.bin / "first.old")
        deleting = asyncio.create_task(network.delete("sb1", NETNS, POD, had_result=True))
        await asyncio.sleep(0.1)
        (lab.bin / "first.old").rename(lab.bin / "first")
        await deleting
    assert [call["command"] for call in lab.calls()] == ["ADD", "DEL"]


async def test_a_cancellation_as_the_plugin_exits_kills_no_other_process(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is reaped, and the call cancelled, in one iteration of the loop."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _number: killed.append(group))
    lab.write("net.conflist", {"type": "first"})
    waitpid = os.waitpid
    async with lab.network() as network:
        adding = asyncio.create_task(network.add("sb1", NETNS, POD))

        def reap_and_cancel(pid: int, options: int) -> tuple[int, int]:
            reaped = waitpid(pid, options)
            adding.cancel()
            return reaped

        monkeypatch.setattr(os, "waitpid", reap_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await adding
    assert killed == []


async def test_a_malformed_plugin_error_is_reported(lab: Lab) -> None:
    for text in ('{"code": 1e999, "msg": "m"}', "[" * 100_000):
        lab.write("net.conflist", {"type": "first", "print": {"ADD": text}, "exit": {"ADD": 1}})
        async with lab.network() as network:
            with pytest.raises(Unknown, match=r"\(exit code 1\)"):
                await network.add("sb1", NETNS, POD)


async def test_a_nul_in_a_pods_name_is_reported(lab: Lab) -> None:
    pod = api_pb2.PodSandboxConfig(metadata=api_pb2.PodSandboxMetadata(name="a\0b"))
    lab.write("net.conflist", {"type": "first"})
    async with lab.network() as network:
        with pytest.raises(Unknown, match=r"cannot run .*first: embedded null byte"):
            await network.add("sb1", NETNS, pod)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("#!/bin/sh\n", 0o644, "it is not executable; chmod 755"),
        ("#!/no/such/interpreter\n", 0o755, "its interpreter or dynamic loader is missing"),
        ("", 0o755, "it is no program for this processor, or incomplete"),
    ],
)
async def test_a_plugin_that_cannot_be_run_says_why(
    lab: Lab, content: str, mode: int, says: str
) -> None:
    lab.write("net.conflist", {"type": "odd"})
    odd = lab.bin / "odd"
    odd.write_text(content)
    odd.chmod(mode)
    async with lab.network() as network:
        with pytest.raises(Unknown, match=f"CNI plugin odd failed at ADD: cannot run .*: {says}"):
            await network.add("sb1", NETNS, POD)
