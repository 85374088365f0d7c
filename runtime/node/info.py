"""The configuration in a verbose Status, in the JSON format of the built-in plugin.

Tools on nodes and containerd's own integration tests read these texts, so keys and nesting are
those of the plugin (as of containerd 2.1); features that this server lacks are shown as disabled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from runtime.cni.config import CniList, CniPlugin
from runtime.config.tables import Config, Runtime
from runtime.config.writer import as_builtins


def builtin_config(config: Config) -> dict[str, Any]:
    """The configuration, in the format of the built-in plugin's own."""
    plain = as_builtins(config)
    containerd = config.containerd
    return {
        "cdiSpecDirs": list(config.cdi_spec_dirs),
        "cni": {
            "binDir": "",
            "binDirs": plain["cni"]["bin_dirs"],
            "confDir": config.cni.conf_dir,
            "confTemplate": config.cni.conf_template,
            "ipPref": config.cni.ip_pref,
            "maxConfNum": config.cni.max_conf_num,
            "setupSerially": config.cni.setup_serially,
            # the loopback interface is set up by netlink, without a plugin
            "useInternalLoopback": True,
        },
        "containerd": {
            "defaultRuntimeName": containerd.default_runtime_name,
            "ignoreBlockIONotEnabledErrors": containerd.ignore_blockio_not_enabled_errors,
            "ignoreRdtNotEnabledErrors": containerd.ignore_rdt_not_enabled_errors,
            "runtimes": {name: _runtime(each) for name, each in containerd.runtimes.items()},
            "snapshotter": containerd.snapshotter,
        },
        "containerdEndpoint": containerd.address.removeprefix("unix://"),
        "containerdRootDir": "",
        "device_ownership_from_security_context": config.device_ownership_from_security_context,
        "disableApparmor": config.disable_apparmor,
        "disableHugetlbController": config.disable_hugetlb_controller,
        "disableProcMount": config.disable_proc_mount,
        "drainExecSyncIOTimeout": plain["drain_exec_sync_io_timeout"],
        "enableCDI": config.enable_cdi,
        "enableSelinux": config.enable_selinux,
        "enableUnprivilegedICMP": config.enable_unprivileged_icmp,
        "enableUnprivilegedPorts": config.enable_unprivileged_ports,
        "ignoreDeprecationWarnings": list(config.ignore_deprecation_warnings) or None,
        "ignoreImageDefinedVolumes": config.ignore_image_defined_volumes,
        "maxContainerLogLineSize": config.max_container_log_line_size,
        "netnsMountsUnderStateDir": config.netns_mounts_under_state_dir,
        "restrictOOMScoreAdj": config.restrict_oom_score_adj,
        "rootDir": str(config.root_dir),
        # of containerd 1.x; kubeadm compares it with its own
        "sandboxImage": config.pause_image,
        "selinuxCategoryRange": config.selinux_category_range,
        "stateDir": str(config.state_dir),
        "tolerateMissingHugetlbController": config.tolerate_missing_hugetlb_controller,
        "unsetSeccompProfile": config.unset_seccomp_profile,
    }


def cni_config(config: Config, networks: Sequence[CniList]) -> dict[str, Any]:
    """The networks that a new pod would get, in go-cni's format."""
    return {
        "PluginDirs": list(config.cni.bin_dirs),
        "PluginConfDir": config.cni.conf_dir,
        "PluginMaxConfNum": config.cni.max_conf_num,
        "Prefix": "eth",
        "Networks": [
            {
                "Config": {
                    "Name": network.name,
                    "CNIVersion": network.version,
                    "Plugins": [_plugin(plugin) for plugin in network.plugins],
                    "Source": network.source.decode("utf-8", "replace"),
                },
                "IFName": f"eth{number}",
            }
            for number, network in enumerate(networks)
        ],
    }


def _runtime(runtime: Runtime) -> dict[str, Any]:
    options = msgspec.to_builtins(runtime.runc) if runtime.is_runc else dict(runtime.options)
    options.pop("CriuPath", None)
    return {
        "ContainerAnnotations": list(runtime.container_annotations) or None,
        "PodAnnotations": list(runtime.pod_annotations) or None,
        "baseRuntimeSpec": runtime.base_runtime_spec,
        "cgroupWritable": runtime.cgroup_writable,
        "cniConfDir": runtime.cni_conf_dir,
        "cniMaxConfNum": runtime.cni_max_conf_num,
        "io_type": "",
        "options": options,
        "privileged_without_host_devices": runtime.privileged_without_host_devices,
        "privileged_without_host_devices_all_devices_allowed": (
            runtime.privileged_without_host_devices_all_devices_allowed
        ),
        "runtimePath": runtime.runtime_path,
        "runtimeType": runtime.runtime_type,
        "sandboxer": "podsandbox",
        "snapshotter": runtime.snapshotter,
    }


def _plugin(plugin: CniPlugin) -> dict[str, Any]:
    ipam = plugin.config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, Mapping) else None
    shown: dict[str, Any] = {"type": plugin.kind, "ipam": {"type": kind} if kind else {}}
    capabilities = plugin.config.get("capabilities")
    if capabilities:
        shown["capabilities"] = capabilities
    return {
        "Network": shown,
        "Source": json.dumps(plugin.config, separators=(",", ":"), sort_keys=True),
    }
