"""The configuration file: what it means, and what stops the start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from generated.containerd import runtime_options_pb2
from runtime.config import file, tables, writer
from runtime.config.tables import ConfigError, Duration
from runtime.containerd.runtime_options import container_runtime, shown_options
from runtime.lookups import handlers


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_its_default() -> None:
    found = file.load(None)
    assert found.containerd.runtimes["runc"].runtime_type == "io.containerd.runc.v2"
    assert found.cni.bin_dirs == ("/opt/cni/bin", "/usr/lib/cni")
    assert found.pause_image == "registry.k8s.io/pause:3.10.2"


def test_the_documented_example_is_accepted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        listen = "unix:///run/cri-containerd/cri-containerd.sock"
        [containerd]
        snapshotter = "native"
        [containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        options = { SystemdCgroup = true, BinaryName = "/x/runc" }
        [images]
        pinned_images.sandbox = "example.com/pause:1"
        registry.config_path = "/x/certs.d"
        image_pull_progress_timeout = "1m30s"
        """,
    )
    found = file.load(path)
    assert found.containerd.runtimes["runc"].runc.SystemdCgroup
    assert found.containerd.snapshotter == "native"
    assert found.pause_image == "example.com/pause:1"
    assert found.images.registry.config_path == "/x/certs.d"
    assert found.images.image_pull_progress_timeout == Duration(90)


def test_the_printed_configuration_reads_back_the_same(tmp_path: Path) -> None:
    text = """
        drain_exec_sync_io_timeout = "1.5s"
        [containerd.runtimes.runc]
        pod_annotations = ["a.b/*"]
        [containerd.runtimes."with.dot"]
    """
    found = file.load(written(tmp_path, text))
    assert file.load(written(tmp_path, writer.as_toml(found))) == found


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[containerd]\naddress = "unix:///a"\nsnapshotter = "native"\n')
    found = file.load(path, {"containerd": {"address": "unix:///b"}, "root": "/r"})
    assert found.containerd.address == "unix:///b"
    assert found.containerd.snapshotter == "native"
    assert str(found.root_dir) == "/r/io.containerd.grpc.v1.cri"


def test_what_the_built_in_plugin_accepts_is_accepted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        max_container_log_line_size = -1
        drain_exec_sync_io_timeout = ""
        [containerd.runtimes.other.options]
        BinaryName = "/x/other"
        CriuPath = ""
        [images]
        max_concurrent_downloads = 0
        [images.pinned_images]
        tool = "example.com/tool:1"
        """,
    )
    found = file.load(path)
    assert found.max_container_log_line_size == -1
    assert float(found.drain_exec_sync_io_timeout) == 0
    assert sorted(found.containerd.runtimes) == ["other", "runc"]
    assert found.images.max_concurrent_downloads == 0
    assert found.images.pinned_images["tool"] == "example.com/tool:1"
    assert found.pause_image == tables.DEFAULT_PAUSE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[containerd]\nsnapshoter = "x"\n',
            ":2: containerd.snapshoter: unknown key; did you mean snapshotter? allowed here: "
            "address, namespace, snapshotter, default_runtime_name, runtimes",
        ),
        ("[cni]\n\nconf_dir = 3\n", ":3: cni.conf_dir: must be a string, not an integer"),
        (
            "[containerd.runtimes.runc]\noptions = { Systemd = true }\n",
            ":2: containerd.runtimes.runc.options.Systemd: unknown key; "
            "did you mean SystemdCgroup? allowed here: BinaryName, Root, ",
        ),
        ('[cni]\nip_pref = "v6"\n', ":2: cni.ip_pref: must be one of '', 'cni', 'ipv4', 'ipv6'"),
        ("cni.bin_dirs = [1]\n", ":1: cni.bin_dirs[0]: must be a string, not an integer"),
        ("cni.bin_dirs = []\n", ":1: cni.bin_dirs: must name at least one directory"),
        (
            'listen = "tcp://x"\n',
            ':1: listen: must be a unix socket such as "unix:///run/x.sock", not "tcp://x"',
        ),
        (f'listen = "unix:///{"x" * 200}"\n', ":1: listen: its path may have at most 107 bytes"),
        (f'state = "/{"x" * 80}"\n', ":1: state: may have "),
        (
            '[containerd]\ndefault_runtime_name = "kata"\n',
            ":2: containerd.default_runtime_name: names no table [containerd.runtimes.NAME]; "
            "known: runc",
        ),
        (
            "[containerd.runtimes.a]\n"
            "privileged_without_host_devices_all_devices_allowed = true\n",
            ":2: containerd.runtimes.a.privileged_without_host_devices_all_devices_allowed: "
            "needs privileged_without_host_devices = true",
        ),
        (
            '[containerd.runtimes.runc.options]\nCriuPath = "/x"\n',
            ":2: containerd.runtimes.runc.options.CriuPath: must be empty",
        ),
        (
            '[images]\npinned_images.sandbox = ""\n',
            ":2: images.pinned_images.sandbox: must name the pause image",
        ),
        (
            'stats_collect_period = "1m"\nstats_retention_period = "1m"\n',
            ":2: stats_retention_period: must be at least twice stats_collect_period",
        ),
        ('[metrics]\naddress = "x"\n', ':2: metrics.address: must be "host:port", not "x"'),
        (
            'drain_exec_sync_io_timeout = "3"\n',
            ':1: drain_exec_sync_io_timeout: must be a duration such as "1m30s" or "500ms"',
        ),
        (
            '[images.runtime_platforms.kata]\nsnapshotter = "x"\n',
            ":1: images.runtime_platforms.kata: names no table [containerd.runtimes.NAME]; "
            "known: runc",
        ),
        (
            '[images.runtime_platforms.runc]\nsnapshotter = "x"\n'
            '[containerd.runtimes.runc]\nsnapshotter = "y"\n',
            ':2: images.runtime_platforms.runc.snapshotter: must be "y", as in '
            "containerd.runtimes.runc.snapshotter",
        ),
        (
            "[images]\nmax_concurrent_unpacks = -1\n",
            ":2: images.max_concurrent_unpacks: ",
        ),
        (
            "[images.registry.headers]\n'a b' = ['c']\n",
            ":2: images.registry.headers.a b: is not a name of an HTTP header",
        ),
        (
            '[images.registry]\nheaders.X-Y = ["a\\nb"]\n',
            ":2: images.registry.headers.X-Y: has a value with a control character",
        ),
        (
            '[images.image_verifier]\nbin_dir = "bin"\n',
            ":2: images.image_verifier.bin_dir: must be an absolute path",
        ),
        (
            '[images.image_verifier]\nper_verifier_timeout = "0s"\n',
            ":2: images.image_verifier.per_verifier_timeout: must be above 0",
        ),
        ("a = [\n", ": invalid TOML:"),
        (
            'root = "/var/lib/x"\nstate = "/var/lib/y/../x"\n',
            ":2: state: must not be the same directory as root",
        ),
        ('[containerd]\nnamespace = ""\n', ":2: containerd.namespace: must be letters and digits"),
        ('[containerd]\nnamespace = "a..b"\n', ":2: containerd.namespace: must be letters"),
        (f'[containerd]\nnamespace = "{"a" * 77}"\n', ":2: containerd.namespace: must be letters"),
        (
            "[containerd.runtimes.runc.options]\nIoUid = -1\n",
            ":2: containerd.runtimes.runc.options.IoUid: must be 0 to 4294967295",
        ),
        (
            "[containerd.runtimes.runc.options]\nIoGid = 4294967296\n",
            ":2: containerd.runtimes.runc.options.IoGid: must be 0 to 4294967295",
        ),
        ('[containerd.runtimes.""]\n', ":1: containerd.runtimes.: must have a name"),
        (
            'unset_seccomp_profile = "default"\n',
            ':1: unset_seccomp_profile: must be "runtime/default", "unconfined"',
        ),
        ('cni.bin_dirs = ["/opt/cni/bin", ""]\n', ":1: cni.bin_dirs: must be absolute paths"),
        (
            'images.registry.config_path = "/etc/a:certs.d"\n',
            ':1: images.registry.config_path: must be absolute paths with ":" between them, '
            'not "certs.d"',
        ),
        ('[metrics]\naddress = "x:65536"\n', ':2: metrics.address: must be "host:port"'),
        ("[cni]\nconf_dir = 2026-01-01\n", ":2: cni.conf_dir: must be a string, not date"),
    ],
)
def test_an_unusable_value_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        file.load(path)
    assert str(caught.value).startswith(f"{path}{said}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file not found"):
        file.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("0", 0), ("0s", 0), ("1h2m3s", 3723), ("500ms", 0.5), ("1.5s", 1.5)],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["3", "1x", "s", "1s 2s", 3])
def test_an_invalid_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("{", "is no OCI spec: Expecting property name"),
        ("[]", "is no OCI spec: it: expected `object`"),
        ('{"process": {"args": "sh"}}', r"is no OCI spec: process\.args: expected `array`"),
        ('{"linux": {"devices": [{"path": 1}]}}', r"linux\.devices\[0\]\.path: expected `str`"),
    ],
)
def test_a_base_runtime_spec_is_checked_at_the_start(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    base = tmp_path / "base.json"
    if content is not None:
        base.write_text(content)
    text = f'[containerd.runtimes.runc]\nbase_runtime_spec = "{base}"\n'
    config = file.load(written(tmp_path, text))
    with pytest.raises(ConfigError, match=rf"runtimes\.runc\.base_runtime_spec: .*{reason}"):
        handlers.configured(config)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('runtime_type = "runsc"', 'runtime_type: must be a shim such as "io.containerd.runc.v2"'),
        ('runtime_type = "io.containerd.runc.v1"', "runtime_type: was removed from containerd"),
        ("options = { Systemd = true }", "options.Systemd: unknown key; did you mean System"),
        ("options = { SystemdCgroup = 1 }", "options.SystemdCgroup: must be true or false"),
        (
            'runtime_type = "io.containerd.kata.v2"\noptions = { ConfigPath = 1 }',
            "options.ConfigPath: must be a string",
        ),
        (
            'runtime_type = "io.containerd.kata.v2"\noptions = { ConfigPath = "/k", x = 1 }',
            "options.x: is not passed to the shim beside ConfigPath; allowed: ConfigBody, Config",
        ),
        ('cni_conf_dir = "net.d"', 'cni_conf_dir: must be an absolute path, not "net.d"'),
        ("cni_max_conf_num = -1", "cni_max_conf_num: is too small"),
    ],
)
def test_what_a_handler_cannot_have_is_named(tmp_path: Path, table: str, said: str) -> None:
    path = written(tmp_path, f"[containerd.runtimes.x]\n{table}\n")
    with pytest.raises(ConfigError) as caught:
        file.load(path)
    where = rf"{path}:\d: containerd\.runtimes\.x\."
    assert re.match(where + re.escape(said), str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{}", None),
        (
            '{ TypeUrl = "io.containerd.runsc.v1.options", ConfigPath = "/etc/runsc.toml" }',
            {"type_url": "io.containerd.runsc.v1.options", "config_path": "/etc/runsc.toml"},
        ),
        ("{ SystemdCgroup = true }", {"config_body": b"SystemdCgroup = true\n"}),
        ('{ ConfigBody = "a = 1" }', {"config_body": b"a = 1"}),
    ],
)
def test_other_shims_get_their_options_as_containerd_passes_them(
    tmp_path: Path, options: str, expected: dict[str, Any] | None
) -> None:
    text = f'[containerd.runtimes.x]\nruntime_type = "io.containerd.runsc.v1"\noptions = {options}'
    config = file.load(written(tmp_path, text))
    assert file.load(written(tmp_path, writer.as_toml(config))) == config
    runtime = container_runtime(handlers.configured(config)["x"])
    assert runtime.name == "io.containerd.runsc.v1"
    if expected is None:
        assert not runtime.HasField("options")
        return
    assert runtime.options.type_url == "runtimeoptions.v1.Options"
    found = runtime_options_pb2.Options.FromString(runtime.options.value)
    assert found == runtime_options_pb2.Options(**expected)
    assert shown_options(runtime)


def test_the_options_of_runcs_shim_are_printed_with_their_defaults(tmp_path: Path) -> None:
    text = '[containerd.runtimes.crun]\noptions = { BinaryName = "crun" }'
    config = file.load(written(tmp_path, text))
    assert "runc" in config.containerd.runtimes
    assert 'Root = ""' in writer.as_toml(config)
    handler = handlers.configured(config)["crun"]
    assert handler.options == {"BinaryName": "crun"} and not handler.systemd_cgroup


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        ("1.3.0", "1.2.0"),
        ("1.2.0", "1.2.0"),
        ("1.1.0-rc.1", "1.1.0"),
        ("1.0.2-dev", "1.0.2"),
        ("", "1.0.2"),
        (None, "1.0.2"),
        (1.2, "1.0.2"),
    ],
)
def test_the_oci_version_is_one_that_the_runtime_supports(latest: object, expected: str) -> None:
    assert handlers.oci_version("1.2.0", latest) == expected
