"""The commands and the surroundings of the server: config, doctor, explain, metrics, private
containerd."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.containerd import containers_pb2
from generated.cri import api_pb2
from generated.oci import defaults
from runtime.__main__ import main
from runtime.commands import doctor, explain
from runtime.commands.doctor import Finding
from runtime.config.tables import Config, ConfigError
from runtime.linux import mountinfo
from runtime.server import embedded, metrics, state_lock
from runtime.store import records
from runtime.transforms import facts, labels


def test_config_prints_what_the_command_line_and_the_file_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[containerd]\nsnapshotter = "native"\n')
    assert main(["config", "--config", str(file), "--root", "/r", "--log-level", "debug"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert (printed["root"], printed["log_level"]) == ("/r", "debug")
    assert printed["containerd"]["snapshotter"] == "native"


def test_a_wrong_config_ends_every_command_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("foo = 1\n")
    assert main(["serve", "--config", str(file)]) == 1
    assert capsys.readouterr().err.startswith(f"cri-containerd: {file}:1: foo: unknown key")


def test_explain_without_a_daemon_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"unix://{tmp_path}/none.sock"
    assert main(["explain", "--containerd", address, "c1"]) == 1
    assert f"containerd at {address} does not respond" in capsys.readouterr().err


def test_only_one_server_holds_a_state_directory(tmp_path: Path) -> None:
    with (
        state_lock.alone_in(tmp_path),
        pytest.raises(
            ConfigError,
            match=rf"another process uses .*: process {os.getpid()} \(.*, uid {os.getuid()}\)",
        ),
        state_lock.alone_in(tmp_path),
    ):
        pass
    with state_lock.alone_in(tmp_path):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="serve needs root")
def test_a_key_that_is_unsafe_on_this_node_stops_the_start_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountinfo, "read", lambda: ())
    file = tmp_path / "config.toml"
    file.write_text("[containerd.runtimes.runc]\ncgroup_writable = true\n")
    # a socket's path is too short for pytest's directory
    with tempfile.TemporaryDirectory(dir="/tmp") as state:
        places = ["--root", str(tmp_path / "root"), "--state", state]
        places += ["--listen", f"unix://{state}/cri.sock"]
        assert main(["serve", "--config", str(file), *places]) == 1
        said = capsys.readouterr().err
        assert "containerd.runtimes.runc.cgroup_writable: needs cgroup v2" in said
        left = Path(state, "io.containerd.grpc.v1.cri").iterdir()
        assert [path.name for path in left] == ["lock"]


# explain


def spec() -> dict[str, object]:
    whole = defaults.container_spec().to_dict()
    whole["linux"]["resources"]["memory"] = {"limit": 5, "swap": 5}
    return whole


def test_a_value_is_explained_by_the_entry_that_wrote_it() -> None:
    found = list(explain.explained(spec(), "ContainerConfig", "linux.resources.memory"))
    by_target = {explanation.target: explanation for explanation in found}
    swap = by_target["linux.resources.memory.swap"]
    assert swap.value == 5
    (entry,) = (e for e in swap.entries if e.by)
    assert entry.by == "resources.swap_limit"
    assert entry.field == "ContainerConfig.linux.resources.memory_swap_limit_in_bytes"
    assert "spec/mapping/linux_container_resources.yaml" in "".join(swap.lines())


def test_a_path_below_a_target_finds_the_target() -> None:
    found = explain.explained(spec(), "ContainerConfig", "mounts[0].destination")
    assert [explanation.target for explanation in found] == ["mounts"]


def test_the_pause_container_is_explained_by_the_pods_config_only() -> None:
    found = explain.explained(spec(), "PodSandboxConfig", "")
    fields = {entry.field for explanation in found for entry in explanation.entries}
    assert fields
    assert all(field.startswith("PodSandboxConfig") for field in fields)


def test_plan_values_are_explained_too() -> None:
    config = api_pb2.PodSandboxConfig()
    config.metadata.name, config.metadata.namespace = "web", "shop"
    config.linux.sysctls["net.ipv4.conf.eth0.arp_filter"] = "1"
    metadata = facts.SandboxMetadata("p", "web_shop__0", config)
    record = containers_pb2.Container(
        extensions={records.SANDBOX_EXTENSION: records.sandbox_extension(metadata)}
    )
    told = explain._told(record, labels.SANDBOX)
    found = {e.target: e for e in explain.explained(told, "PodSandboxConfig", "plan")}
    assert found["plan.pod_name"].value == "web_shop__0"
    assert found["plan.network_first"].value is True
    (entry,) = found["plan.network_first"].entries
    assert (entry.by, entry.inputs) == ("sysctls.names_interface", ("sysctls",))
    assert {e.field for e in found["plan.pod_name"].entries} == {
        f"PodSandboxConfig.metadata.{field}" for field in ("name", "namespace", "uid", "attempt")
    }
    assert explain._told(containers_pb2.Container(), labels.CONTAINER) == {"plan": {}}


def test_the_input_of_cni_plugins_is_explained_too() -> None:
    config = api_pb2.PodSandboxConfig(annotations={"a.b/c": "d"})
    config.metadata.name, config.metadata.namespace = "web", "shop"
    record = containers_pb2.Container()
    metadata = facts.SandboxMetadata("p", "web_shop__0", config)
    record.extensions[records.SANDBOX_EXTENSION].CopyFrom(records.sandbox_extension(metadata))
    told = explain._told(record, labels.SANDBOX)
    found = {e.target: e for e in explain.explained(told, "PodSandboxConfig", "cni")}
    assert found["cni.args.K8S_POD_NAME"].value == "web"
    assert found["cni[io.kubernetes.cri.pod-annotations]"].value == {"a.b/c": "d"}
    (entry,) = found["cni.cgroupPath"].entries
    assert entry.field == "PodSandboxConfig.linux"


def test_the_keys_of_items_are_explained_by_the_entries_of_their_message() -> None:
    ports = [api_pb2.PortMapping(container_port=80, host_port=number) for number in (8080, 8081)]
    config = api_pb2.PodSandboxConfig(port_mappings=ports)
    record = containers_pb2.Container()
    metadata = facts.SandboxMetadata("p", "web_shop__0", config)
    record.extensions[records.SANDBOX_EXTENSION].CopyFrom(records.sandbox_extension(metadata))
    told = explain._told(record, labels.SANDBOX)
    found = {e.target: e for e in explain.explained(told, "PodSandboxConfig", "cni.portMappings")}
    host_port = found["cni.portMappings[].hostPort"]
    assert host_port.value == [8080, 8081]
    assert [entry.field for entry in host_port.entries] == [
        "PodSandboxConfig.port_mappings.host_port"
    ]
    assert not list(explain.explained(told, "ContainerConfig", "cni.portMappings"))


def test_each_item_that_has_a_key_is_shown() -> None:
    whole = {"linux": {"uidMappings": [{"hostID": 5}, {}, {"hostID": 6}]}, "mounts": []}
    assert explain.value_at(whole, "linux.uidMappings[].hostID") == [5, 6]
    assert explain.value_at(whole, "mounts[].source") is explain._ABSENT


def test_an_absent_value_is_reported_as_absent() -> None:
    found = explain.explained({}, "ContainerConfig", "linux.resources.memory.limit")
    assert next(iter(next(found).lines())) == "linux.resources.memory.limit = (absent)"


def test_a_plan_value_that_is_not_saved_is_said_to_be_so() -> None:
    found = explain.explained({"plan": {}}, "ContainerConfig", "plan.user")
    assert next(iter(next(found).lines())) == "plan.user = (decided during creation, not saved)"


def test_keys_with_dots_are_one_step() -> None:
    whole = {"annotations": {"a.b/c": "x"}}
    assert explain.value_at(whole, "annotations[a.b/c]") == "x"


# doctor


def test_a_finding_has_a_remedy() -> None:
    assert Finding("a", "fine").mark == "ok"
    assert Finding("a", "odd", "fix it").mark == "warn"
    fatal = Finding("a", "bad", "fix it", stops_pods=True)
    assert fatal.mark == "FAIL"
    assert [line.split() for line in fatal.lines()] == [
        ["FAIL", "a", "bad"],
        ["->", "fix", "it"],
    ]


def test_doctor_fails_where_pods_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        f'[containerd]\naddress = "unix://{tmp_path}/none.sock"\n'
        f'[cni]\nconf_dir = "{tmp_path}/net.d"\n'
    )
    assert main(["doctor", "--config", str(file)]) == 1
    printed = capsys.readouterr().out
    assert "does not respond" in printed
    assert "serve --embedded" in printed
    assert "no valid network configuration" in printed
    assert not (tmp_path / "net.d").exists()  # it only looks


# metrics


def test_a_metrics_address_in_use_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"metrics\.address: .*{address}: Address already in use; choose"
        ):
            metrics.Metrics(unsaved=lambda: 0).serve(address)


def test_calls_are_counted_by_rpc_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import prometheus_client

    servers: list[Any] = []

    def start(*arguments: Any, **fields: Any) -> object:
        made = started(*arguments, **fields)
        servers.append(made)
        return made

    started = prometheus_client.start_http_server
    monkeypatch.setattr(prometheus_client, "start_http_server", start)
    counted = metrics.Metrics(unsaved=lambda: 3)
    counted.observe("Version", grpc.StatusCode.OK, 0.002)  # metrics are not enabled yet
    counted.serve("127.0.0.1:0")
    counted.observe("Version", grpc.StatusCode.OK, 0.002)
    counted.observe("Version", grpc.StatusCode.OK, 0.002)
    counted.left_out("image")
    counted.stream_began("exec", "spdy")
    counted.stream_began("exec", "spdy")
    counted.stream_ended("exec", "spdy", 0.5)
    counted.stream_fault()
    for code in (grpc.StatusCode.OK, grpc.StatusCode.INTERNAL):
        counted.observe("ListPodSandbox", code, 0.2)
    for operation in ("sandbox_runtime_create", "sandbox_remove", "container_stop"):
        counted.timed(operation, "kata", "io.containerd.kata.v2", 0.2)
    counted.network_operated("set_up_pod", 0.1, succeeded=True)
    counted.network_operated("tear_down_pod", 0.1, succeeded=False)
    counted.events_dropped(3)
    for _ in range(2):
        counted.field_ignored("PodSandboxConfig.windows")
    counted.field_unknown("Mount")
    for _ in range(3):
        counted.pull_began()
    counted.pull_ended(succeeded=True, received=4 << 20, seconds=2.0)
    counted.pull_ended(succeeded=False, received=1 << 20, seconds=2.0)
    server, thread = servers[0]
    try:
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert 'cri_field_set_but_ignored_total{field="PodSandboxConfig.windows"} 2.0' in text
    assert 'cri_containerd_unknown_fields_total{message="Mount"} 1.0' in text
    assert 'cri_containerd_rpc_duration_seconds_count{code="OK",rpc="Version"} 2.0' in text
    assert 'cri_containerd_objects_left_out_total{kind="image"} 1.0' in text
    assert 'cri_containerd_streams_open{kind="exec",transport="spdy"} 1.0' in text
    assert 'cri_containerd_stream_duration_seconds_count{kind="exec",transport="spdy"} 1.0' in text
    assert "cri_containerd_stream_client_faults_total 1.0" in text
    assert "cri_containerd_unsaved_statuses 3.0" in text
    runtime = 'runtime="io.containerd.kata.v2"'
    for line in (  # as the built-in plugin writes them; failed operations have no duration
        f"containerd_cri_sandbox_runtime_create_seconds_count{{{runtime}}} 1.0",
        f'containerd_cri_sandbox_runtime_create_seconds_bucket{{le="0.25",{runtime}}} 1.0',
        f"containerd_cri_container_stop_seconds_count{{{runtime}}} 1.0",
        'containerd_cri_sandbox_remove_seconds_count{runtime="kata"} 1.0',
        "containerd_cri_sandbox_list_seconds_count 1.0",
        "containerd_cri_sandbox_create_network_seconds_count 1.0",
        "containerd_cri_sandbox_delete_network_seconds_count 0.0",
        'containerd_cri_network_plugin_operations_total_total{operation_type="set_up_pod"} 1.0',
        "containerd_cri_network_plugin_operations_errors_total_total"
        '{operation_type="tear_down_pod"} 1.0',
        "containerd_cri_network_plugin_operations_duration_seconds_seconds_count"
        '{operation_type="tear_down_pod"} 1.0',
        "containerd_cri_container_events_dropped_total 3.0",
        "containerd_cri_sandboxed_in_progress_image_pulls_total 1.0",
        'containerd_cri_sandboxed_image_pulls_total{status="success"} 1.0',
        'containerd_cri_sandboxed_image_pulls_total{status="failure"} 1.0',
        "containerd_cri_sandboxed_image_pulling_throughput_sum 2.0",
        "containerd_cri_sandboxed_image_pulling_throughput_mibps_count 1.0",
    ):
        assert line in text.splitlines(), line


# the private containerd


def test_the_private_daemon_brings_its_address_and_pause_image() -> None:
    config = embedded.configured(Config(root="/r", state="/s"))
    assert config.containerd.address == "unix:///s/containerd/containerd.sock"
    assert config.pause_image == embedded.OWN_PAUSE


def test_a_configured_pause_image_is_used() -> None:
    named = embedded.configured(Config())
    images = Config().images
    config = Config(images=type(images)(pinned_images={"sandbox": "example.com/pause:1"}))
    assert embedded.configured(config).pause_image == "example.com/pause:1"
    assert named.pause_image == embedded.OWN_PAUSE


def test_without_a_binary_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="apt-get install containerd"):
        embedded.started(Config(root=f"{tmp_path}/r", state=f"{tmp_path}/s"))


def test_another_process_with_the_daemons_pid_is_not_killed(tmp_path: Path) -> None:
    at = embedded.places(Config(root=f"{tmp_path}/r", state=f"{tmp_path}/s"))
    at.state.mkdir(parents=True)
    at.pid.write_text("1")
    assert embedded._living(at) == 0


def test_the_daemons_config_disables_conflicting_plugins(tmp_path: Path) -> None:
    at = embedded.places(Config(root=f"{tmp_path}/r", state=f"{tmp_path}/s"))
    config = tomllib.loads(embedded._config(at, "btrfs"))
    disabled = config["disabled_plugins"]
    assert "io.containerd.grpc.v1.cri" in disabled
    assert "io.containerd.snapshotter.v1.btrfs" not in disabled  # the correct one
    assert json.dumps(config["grpc"]) == json.dumps({"address": str(at.socket)})


@pytest.mark.parametrize(
    ("handler", "line"),
    [
        (facts.Handler("runc", user_namespaces_problem="old"), "runc: none, old"),
        (facts.Handler("runc", user_namespaces_problem=""), "runc: available"),
        (
            facts.Handler("runc", user_namespaces_problem="", owners_by_copy=True),
            "runc: available, with a copy of each image",
        ),
    ],
)
def test_doctor_shows_the_features_of_a_handler(handler: facts.Handler, line: str) -> None:
    assert doctor._user_namespaces("runc", handler) == line


def test_doctor_names_broken_cdi_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(
        '{"cdiVersion": "0.3.0", "kind": "v.com/g", "devices":'
        ' [{"name": "a", "containerEdits": {"env": ["A=1"]}}]}'
    )
    found, broken = doctor._cdi(Config(cdi_spec_dirs=(str(tmp_path),)))
    assert (found.state, found.mark) == ("specs that can be used: 1", "ok")
    assert broken.state.startswith(f"{tmp_path}/a.json: ") and broken.mark == "warn"


def test_doctor_says_whether_selinux_is_used() -> None:
    node = facts.Host(hostname="node")
    assert doctor._selinux(node, Config()).mark == "ok"
    assert doctor._selinux(node, Config(enable_selinux=True)).mark == "warn"
    labelled = facts.Host(hostname="node", selinux=facts.SelinuxPolicy())
    assert doctor._selinux(labelled, Config(enable_selinux=True)).state == "used"
