"""Every key of containerd's CRI plugin is served, or stops the start with what to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w

from runtime.config import file
from runtime.config.foreign import FOREIGN
from runtime.config.tables import Config, ConfigError, Runtime

RUNTIME = """
    enable_selinux selinux_category_range max_container_log_line_size disable_apparmor
    restrict_oom_score_adj disable_proc_mount unset_seccomp_profile
    tolerate_missing_hugetlb_controller disable_hugetlb_controller
    device_ownership_from_security_context ignore_image_defined_volumes
    netns_mounts_under_state_dir enable_unprivileged_ports enable_unprivileged_icmp enable_cdi
    cdi_spec_dirs drain_exec_sync_io_timeout ignore_deprecation_warnings stats_collect_period
    stats_retention_period enable_criu enable_experimental_restore_via_create
    containerd.default_runtime_name
    containerd.ignore_blockio_not_enabled_errors containerd.ignore_rdt_not_enabled_errors
    cni.bin_dir cni.bin_dirs cni.conf_dir cni.max_conf_num cni.setup_serially cni.conf_template
    cni.ip_pref cni.use_internal_loopback
"""
HANDLER = """
    runtime_type runtime_path options pod_annotations container_annotations
    privileged_without_host_devices privileged_without_host_devices_all_devices_allowed
    cgroup_writable base_runtime_spec snapshotter cni_conf_dir cni_max_conf_num sandboxer io_type
    disable_pause_image_pull
"""
IMAGES = """
    snapshotter disable_snapshot_annotations discard_unpacked_layers pinned_images
    runtime_platforms registry.config_path registry.mirrors registry.configs registry.auths
    registry.headers image_decryption.key_model max_concurrent_downloads
    concurrent_layer_fetch_buffer image_pull_progress_timeout image_pull_with_sync_fs
    stats_collect_period use_local_image_pull max_concurrent_unpacks check_platform_supported
    unpack_config config_path
"""
STREAMING = """
    disable_tcp_service stream_server_address stream_server_port stream_idle_timeout
    enable_tls_streaming x509_key_pair_streaming
"""
OLDER = """
    sandbox_image systemd_cgroup registry max_concurrent_downloads containerd.snapshotter
    containerd.no_pivot containerd.default_runtime containerd.untrusted_workload_runtime
    containerd.disable_snapshot_annotations containerd.discard_unpacked_layers
    containerd.runtimes.runc.runtime_engine containerd.runtimes.runc.runtime_root
"""
"""Of containerd 1.x."""

KEYS = [
    *RUNTIME.split(),
    *(f"containerd.runtimes.runc.{key}" for key in HANDLER.split()),
    *(f"images.{key}" for key in IMAGES.split()),
    *STREAMING.split(),
    *OLDER.split(),
]
"""As in containerd's main branch of August 2026, where a table of ours has the key's place."""


def is_served(key: str) -> bool:
    """Whether a table of the configuration has the key."""
    kind: Any = Config
    for step in key.split("."):
        if kind in (Runtime, None):
            break
        fields = {each.encode_name: each.type for each in msgspec.structs.fields(kind)}
        if step not in fields:
            return False
        kind = fields[step] if isinstance(fields[step], type) else None
    handler = key.removeprefix("containerd.runtimes.runc.")
    return handler == key or handler in Runtime.__struct_fields__


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_built_in_plugin_is_served_or_has_a_remedy(key: str) -> None:
    foreign = key.replace("runtimes.runc.", "runtimes.*.") in FOREIGN
    assert is_served(key) is not foreign


def document(key: str, value: object) -> str:
    table: Any = value
    for step in reversed(key.replace("*", "kata").split(".")):
        table = {step: table}
    return tomli_w.dumps(table)


@pytest.mark.parametrize("key", FOREIGN)
def test_a_key_that_is_not_served_stops_the_start_with_what_to_do(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    foreign = FOREIGN[key]
    path.write_text(document(key, "something else"))
    with pytest.raises(ConfigError) as caught:
        file.load(path)
    where = re.escape(key.replace("*", "kata"))
    assert re.fullmatch(rf"{path}:\d+: {where}: {re.escape(foreign.remedy)}", str(caught.value))
    for value in foreign.accepted:
        path.write_text(document(key, value))
        loaded = file.load(path)
        if "runtimes" not in key:
            assert loaded == file.load(None)


def test_a_number_is_not_the_boolean_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("disable_cgroup = 0\n")
    with pytest.raises(ConfigError, match="disable_cgroup: must be false or left out"):
        file.load(path)


def test_containerds_whole_configuration_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('version = 3\n[plugins."io.containerd.cri.v1.runtime"]\nenable_cdi = true\n')
    with pytest.raises(ConfigError, match="version: belongs to containerd's own configuration"):
        file.load(path)
