"""CDI specs: how a vendor describes the changes to a container that a device needs.

The Container Device Interface, https://github.com/cncf-tags/container-device-interface, SPEC.md.
Everything here is pure: `runtime.lookups.cdi` reads the files and the device nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.transforms.facts import CdiEdits, CdiHooks, DeviceNode

ANNOTATIONS: Final = "cdi.k8s.io/"
"""Prefix of a container's annotations that request devices: comma-separated names."""

VERSIONS: Final = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
"""The released versions of the CDI specification, in their order; earlier ones are refused."""

_VENDOR: Final = r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?"
_KIND: Final = re.compile(rf"{_VENDOR}/{_VENDOR}")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_LONGEST_CLOS_ID: Final = 4095

_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_Variable: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[^=]+=")]


class _Document(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel"
):
    """An object of a CDI spec; the specification requires unknown keys to be refused."""


class Node(_Document, frozen=True):
    """A device node of the container."""

    path: _Text
    host_path: str = ""
    """"" is ``path``."""
    type: Literal["", "b", "c", "u", "p"] = ""
    """"" is the type of the host's node."""
    major: _Number = 0
    minor: _Number = 0
    """With ``major`` 0, both are those of the host's node."""
    file_mode: Annotated[int, msgspec.Meta(ge=0, le=0o7777)] | None = None
    permissions: Annotated[str, msgspec.Meta(pattern="^([rwm]*|none)$")] = ""
    """What the cgroup allows: "" means rwm."""
    uid: _Id | None = None
    gid: _Id | None = None


class NetDevice(_Document, frozen=True):
    """A network interface that is moved into the container."""

    host_interface_name: _Text
    name: _Text


class MountEdit(_Document, frozen=True):
    """A mount of a path of the host, or of a file system of its own type."""

    host_path: _Text
    container_path: _Text
    options: tuple[str, ...] = ()
    type: str = ""


class HookEdit(_Document, frozen=True):
    """A program that the OCI runtime runs at some point of the container's life."""

    hook_name: Literal[
        "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
    ]
    path: _Text
    args: tuple[str, ...] = ()
    env: tuple[_Variable, ...] = ()
    timeout: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Seconds."""


class Rdt(_Document, frozen=True):
    """Cache and memory bandwidth (resctrl)."""

    clos_id: str = msgspec.field(name="closID", default="")
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    schemata: tuple[str, ...] | None = None
    enable_monitoring: bool = False
    enable_cmt: bool = msgspec.field(name="enableCMT", default=False)
    enable_mbm: bool = msgspec.field(name="enableMBM", default=False)


class Edits(_Document, frozen=True):
    """Changes to a container's OCI spec."""

    env: tuple[_Variable, ...] = ()
    device_nodes: tuple[Node, ...] = ()
    net_devices: tuple[NetDevice, ...] = ()
    hooks: tuple[HookEdit, ...] = ()
    mounts: tuple[MountEdit, ...] = ()
    intel_rdt: Rdt | None = None
    additional_gids: tuple[_Id, ...] = ()


class Device(_Document, frozen=True):
    """A device that containers can request."""

    name: str
    container_edits: Edits
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)


class Spec(_Document, frozen=True):
    """The content of one file."""

    cdi_version: str
    kind: str
    devices: tuple[Device, ...] = ()
    container_edits: Edits = Edits()
    """Applied once for each container that has any of the devices."""
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class File:
    """A file below a CDI directory."""

    path: str
    priority: int
    """Position of its directory in ``cdi_spec_dirs``: a later directory wins."""
    spec: Spec | None
    problem: str = ""
    """Why ``spec`` is None."""


def problems(spec: Spec) -> Iterator[str]:
    """Violations of the specification by a spec of the right types, each with its key."""
    version = spec.cdi_version.removeprefix("v")
    if version not in VERSIONS:
        yield f"cdiVersion: must be one of {', '.join(VERSIONS)}, not {spec.cdi_version!r}"
        return
    if not _KIND.fullmatch(spec.kind):
        yield f"kind: must be vendor.com/class, not {spec.kind!r}"
    if not spec.devices:
        yield "devices: must have at least one device"
    names: set[str] = set()
    for index, device in enumerate(spec.devices):
        if not _NAME.fullmatch(device.name):
            yield (
                f"devices[{index}].name: must be letters, digits, '_', '-', '.' and ':', with a"
                f" letter or digit first and last, not {device.name!r}"
            )
        if device.name in names:
            yield f"devices[{index}].name: there are two devices {device.name!r}"
        names.add(device.name)
        if device.container_edits == Edits():
            yield f"devices[{index}].containerEdits: must have at least one edit"
    for place, edits in _all_edits(spec):
        yield from _problems_of_edits(place, edits, version)
    needed = minimum_version(spec)
    if VERSIONS.index(needed) > VERSIONS.index(version):
        yield f"cdiVersion: must be {needed} or later for what the file uses, not {version}"


def minimum_version(spec: Spec) -> str:
    """The first version of the specification that has everything that ``spec`` uses."""
    return next((version for version, used in _SINCE if used(spec)), VERSIONS[0])


def requested(*, devices: Sequence[str], annotations: Mapping[str, str]) -> list[str]:
    """The names in ``ContainerConfig.CDI_devices``, then those in its annotations, each once.

    Raises InvalidArgument for a name that is not of the form vendor.com/class=name.
    """
    named = [(f"config.CDI_devices[{index}].name", name) for index, name in enumerate(devices)]
    for key in sorted(annotations):
        if key.startswith(ANNOTATIONS):
            field = f"config.annotations[{key}]"
            named += [(field, name) for name in annotations[key].split(",")]
    for field, name in named:
        kind, equals, device = name.partition("=")
        if not (equals and _KIND.fullmatch(kind) and _NAME.fullmatch(device)):
            raise InvalidArgument(
                f"must be a CDI device such as vendor.com/class=name, not {name!r}", field=field
            )
    return list(dict.fromkeys(name for _, name in named))


def edits_of(names: Sequence[str], files: Sequence[File]) -> tuple[Edits, dict[str, str]]:
    """The edits for the devices ``names``, in their order, and the reason for each name that is not
    resolved.

    A device of a later directory replaces that of an earlier one. If two specs of the same priority
    have the same device, that is a conflict, and neither is used. The edits of a whole spec come
    once, before those of its first device.
    """
    found: list[Edits] = []
    seen: set[str] = set()
    unresolved: dict[str, str] = {}
    for name in names:
        candidates = [
            (file, device) for file in files for device in _devices(file) if _is(device, file, name)
        ]
        highest = max((file.priority for file, _ in candidates), default=0)
        best = [(file, device) for file, device in candidates if file.priority == highest]
        if len(best) != 1:
            unresolved[name] = _unresolved(name, files, [file.path for file, _ in best])
            continue
        ((file, device),) = best
        assert file.spec is not None
        if file.path not in seen:
            seen.add(file.path)
            found.append(file.spec.container_edits)
        found.append(device.container_edits)
    return _joined(found), unresolved


def injected(edits: Edits, nodes: Sequence[tuple[DeviceNode, str]]) -> CdiEdits:
    """The edits in the format of the OCI spec; ``nodes`` are its device nodes as found on the
    host, each with what the cgroup allows."""
    hooks: dict[str, list[types.Hook]] = {}
    for hook in edits.hooks:
        hooks.setdefault(hook.hook_name, []).append(
            types.Hook(
                path=hook.path, args=list(hook.args), env=list(hook.env), timeout=hook.timeout
            )
        )
    return CdiEdits(
        env=edits.env,
        devices=tuple(node for node, _ in nodes),
        device_rules=tuple(_rule(node.device, access) for node, access in nodes if access),
        net_devices={
            device.host_interface_name: types.LinuxNetDevice(name=device.name)
            for device in edits.net_devices
        },
        mounts=tuple(
            types.Mount(
                destination=mount.container_path,
                source=mount.host_path,
                type=mount.type or None,
                options=list(mount.options),
            )
            for mount in edits.mounts
        ),
        hooks=CdiHooks(**{name: tuple(each) for name, each in hooks.items()}),
        intel_rdt=_intel_rdt(edits.intel_rdt) if edits.intel_rdt else None,
        additional_gids=tuple(gid for gid in edits.additional_gids if gid),
    )


def _rule(device: types.LinuxDevice, access: str) -> types.LinuxDeviceCgroup:
    return types.LinuxDeviceCgroup(
        allow=True, type=device.type, major=device.major, minor=device.minor, access=access
    )


def _intel_rdt(rdt: Rdt) -> types.LinuxIntelRdt:
    return types.LinuxIntelRdt(
        closID=rdt.clos_id or None,
        l3CacheSchema=rdt.l3_cache_schema or None,
        memBwSchema=rdt.mem_bw_schema or None,
        schemata=list(rdt.schemata or ()),
        enableMonitoring=rdt.enable_monitoring or None,
        enableCMT=rdt.enable_cmt or None,
        enableMBM=rdt.enable_mbm or None,
    )


def _joined(parts: Sequence[Edits]) -> Edits:
    return Edits(
        env=tuple(each for part in parts for each in part.env),
        device_nodes=tuple(each for part in parts for each in part.device_nodes),
        net_devices=tuple(each for part in parts for each in part.net_devices),
        hooks=tuple(each for part in parts for each in part.hooks),
        mounts=tuple(each for part in parts for each in part.mounts),
        intel_rdt=next((part.intel_rdt for part in reversed(parts) if part.intel_rdt), None),
        additional_gids=tuple(each for part in parts for each in part.additional_gids),
    )


def _devices(file: File) -> Iterable[Device]:
    return file.spec.devices if file.spec else ()


def _is(device: Device, file: File, name: str) -> bool:
    return file.spec is not None and name == f"{file.spec.kind}={device.name}"


def _unresolved(name: str, files: Sequence[File], conflicting: Sequence[str]) -> str:
    if conflicting:
        return f"{' and '.join(conflicting)} both define it; remove one of them"
    broken = [f"{file.path}: {file.problem}" for file in files if file.problem]
    kind = name.partition("=")[0]
    alike = sorted(
        device.name
        for file in files
        for device in _devices(file)
        if file.spec and file.spec.kind == kind
    )
    parts = [f"{kind} has {', '.join(alike[:10])}" if alike else "no file defines it"]
    if broken:
        parts.append(f"not readable: {'; '.join(broken)}")
    return "; ".join(parts)


def _all_edits(spec: Spec) -> Iterator[tuple[str, Edits]]:
    yield "containerEdits", spec.container_edits
    for index, device in enumerate(spec.devices):
        yield f"devices[{index}].containerEdits", device.container_edits


def _problems_of_edits(place: str, edits: Edits, version: str) -> Iterator[str]:
    rdt = edits.intel_rdt
    if rdt is not None:
        clos = rdt.clos_id
        if clos != "/" and (
            clos in (".", "..") or set(clos) & set("/\n") or len(clos) > _LONGEST_CLOS_ID
        ):
            yield f"{place}.intelRdt.closID: must be the name of a directory or /, not {clos!r}"
        if (rdt.enable_cmt or rdt.enable_mbm) and version == "1.1.0":
            yield f"{place}.intelRdt: enableCMT and enableMBM are enableMonitoring since 1.1.0"
    for key, used in (
        ("hostInterfaceName", [device.host_interface_name for device in edits.net_devices]),
        ("name", [device.name for device in edits.net_devices]),
    ):
        twice = next((name for name in used if used.count(name) > 1), None)
        if twice is not None:
            yield f"{place}.netDevices: two have the {key} {twice!r}"


def _any_edits(spec: Spec) -> Iterator[Edits]:
    return (edits for _, edits in _all_edits(spec))


def _uses_1_1_0(spec: Spec) -> bool:
    return any(
        edits.net_devices
        or (
            edits.intel_rdt is not None
            and (edits.intel_rdt.schemata is not None or edits.intel_rdt.enable_monitoring)
        )
        for edits in _any_edits(spec)
    )


def _uses_0_7_0(spec: Spec) -> bool:
    return any(edits.intel_rdt or edits.additional_gids for edits in _any_edits(spec))


def _uses_0_6_0(spec: Spec) -> bool:
    return (
        bool(spec.annotations)
        or any(device.annotations for device in spec.devices)
        or "." in spec.kind.partition("/")[2]
    )


def _uses_0_5_0(spec: Spec) -> bool:
    return any(device.name[:1].isdigit() for device in spec.devices) or any(
        node.host_path for edits in _any_edits(spec) for node in edits.device_nodes
    )


def _uses_0_4_0(spec: Spec) -> bool:
    return any(mount.type for edits in _any_edits(spec) for mount in edits.mounts)


_SINCE: Final = (
    ("1.1.0", _uses_1_1_0),
    ("0.7.0", _uses_0_7_0),
    ("0.6.0", _uses_0_6_0),
    ("0.5.0", _uses_0_5_0),
    ("0.4.0", _uses_0_4_0),
)
"""What each version added, newest first."""
