"""Keys of containerd's CRI plugin that have no effect here, or have another name.

An operator migrates a configuration key by key. A key that this server does not support must
neither be ignored silently nor cause a bare "unknown key": the start fails and says what to do.
Values that request what this server does anyway are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Foreign:
    """What happens to a key."""

    remedy: str
    """What to do instead; the end of a sentence that begins with the key."""
    accepted: tuple[object, ...] = ()
    """Values without effect, which are accepted."""


def _moved(to: str) -> Foreign:
    return Foreign(f"is {to} here")


_WHOLE_FILE: Final = Foreign(
    "belongs to containerd's own configuration: copy the keys of its tables"
    ' [plugins."io.containerd.grpc.v1.cri"] or [plugins."io.containerd.cri.v1.…"] one level up'
)

FOREIGN: Final[Mapping[str, Foreign]] = {
    "version": _WHOLE_FILE,
    "imports": _WHOLE_FILE,
    "plugins": _WHOLE_FILE,
    "disabled_plugins": _WHOLE_FILE,
    # runtime
    "systemd_cgroup": _moved("SystemdCgroup in [containerd.runtimes.NAME.options]"),
    "disable_cgroup": Foreign("must be false or left out: cgroups are always used", (False,)),
    "nri": Foreign("is not served yet: pods that need NRI plugins need the built-in plugin"),
    "tracing": Foreign("is not served yet: leave it out and use the metrics"),
    "containerd.no_pivot": Foreign(
        "is NoPivotRoot in [containerd.runtimes.NAME.options] here", (False,)
    ),
    "containerd.default_runtime": _moved("[containerd.runtimes.NAME] and default_runtime_name"),
    "containerd.untrusted_workload_runtime": _moved("[containerd.runtimes.untrusted]"),
    "containerd.disable_snapshot_annotations": _moved("[images] disable_snapshot_annotations"),
    "containerd.discard_unpacked_layers": _moved("[images] discard_unpacked_layers"),
    "containerd.runtimes.*.sandboxer": Foreign(
        'must be "podsandbox" or left out: sandbox controllers of shims are not served yet',
        ("", "podsandbox"),
    ),
    "containerd.runtimes.*.io_type": Foreign(
        'must be "fifo" or left out: streaming input and output is not served yet', ("", "fifo")
    ),
    "containerd.runtimes.*.disable_pause_image_pull": Foreign(
        "must be false or left out: the pause image is pulled if the node lacks it", (False,)
    ),
    "containerd.runtimes.*.runtime_engine": Foreign("is options.BinaryName here", ("",)),
    "containerd.runtimes.*.runtime_root": Foreign("is options.Root here", ("",)),
    "cni.bin_dir": Foreign('is bin_dirs = ["…"] here', ("",)),
    # the loopback interface is always set up without a plugin
    "cni.use_internal_loopback": Foreign("must be true or false", (True, False)),
    # images
    "sandbox_image": _moved("[images] pinned_images.sandbox"),
    "registry": _moved("[images.registry]"),
    "max_concurrent_downloads": _moved("[images] max_concurrent_downloads"),
    "image_pull_progress_timeout": _moved("[images] image_pull_progress_timeout"),
    "image_decryption": _moved("[images.image_decryption]"),
    "image_pull_with_sync_fs": _moved("[images] image_pull_with_sync_fs"),
    "images.snapshotter": _moved("[containerd] snapshotter"),
    "images.image_decryption.key_model": Foreign(
        "must be empty or left out: encrypted images cannot be pulled yet", ("",)
    ),
    "images.use_local_image_pull": Foreign("must be true or false", (True, False)),
    "images.config_path": _moved("[images.registry] config_path"),
    "images.unpack_config": _moved("[containerd] snapshotter, or [images.runtime_platforms]"),
    "images.check_platform_supported": Foreign(
        "must be false or left out: containerd's transfer service is not used", (False,)
    ),
    # streams
    "disable_tcp_service": _moved("[streaming] disable_tcp_service"),
    "stream_server_address": _moved("[streaming] stream_server_address"),
    "stream_server_port": _moved("[streaming] stream_server_port"),
    "stream_idle_timeout": _moved("[streaming] stream_idle_timeout"),
    "enable_tls_streaming": _moved("[streaming] enable_tls_streaming"),
    "x509_key_pair_streaming": _moved("[streaming.x509_key_pair_streaming]"),
}
"""By dotted key; ``*`` is any name of a runtime handler."""


def refused(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every unsupported key of a file, with what to do."""
    for key, value in _found(values):
        foreign = FOREIGN[_pattern(key)]
        if not any(value == each and type(value) is type(each) for each in foreign.accepted):
            yield key, foreign.remedy


def without(values: Mapping[str, Any]) -> dict[str, Any]:
    """The file without the keys that have no effect."""
    return _without(values, ())


def _without(values: Mapping[str, Any], above: tuple[str, ...]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = (*above, name)
        if _pattern(key) in FOREIGN:
            continue
        below = _without(value, key) if isinstance(value, dict) else value
        if below or not value:  # remove a table that had only such keys
            kept[name] = below
    return kept


def _found(
    values: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        key = (*above, name)
        if _pattern(key) in FOREIGN:
            yield key, value
        elif isinstance(value, dict):
            yield from _found(value, key)


def _pattern(key: tuple[str, ...]) -> str:
    named = len(key) > 2 and key[:2] == ("containerd", "runtimes")
    return ".".join((*key[:2], "*", *key[3:]) if named else key)
