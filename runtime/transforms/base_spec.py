"""The base of a container's OCI spec: the default spec, or the handler's own.

A handler's ``base_runtime_spec`` replaces the default of spec/oci/default_container.json. Parts
that the CRI always decides are dropped from it; parts that a request can only extend are kept
separately, for the entries that merge.
"""

from __future__ import annotations

from generated.oci import types
from generated.oci.defaults import container_spec
from runtime.transforms.facts import BaseSpec

_KIND = "io.kubernetes.cri.container-type"
_CGROUP = "/sys/fs/cgroup"


def prepared(spec: types.Spec) -> BaseSpec:
    """The base of a handler's containers, from its ``base_runtime_spec``.

    As in the built-in plugin, its resource limits, rlimits, hooks, seccomp filter, AppArmor profile
    and annotations are kept. Its mounts, devices, environment and capabilities are the defaults
    that a request extends, except a mount of /run, which would hide the image's. Its namespaces,
    labels, user and command are ignored, and so is noNewPrivileges: ``ctr oci spec`` sets it, and a
    request decides it.
    """
    process, linux = spec.process, spec.linux
    capabilities = process.capabilities
    base = BaseSpec(
        env=tuple(process.env),
        cwd=process.cwd or "",
        capabilities=tuple(capabilities.bounding) if capabilities else (),
        mounts=_mounts(spec),
        devices=tuple(linux.devices),
        masked_paths=tuple(linux.maskedPaths),
        readonly_paths=tuple(linux.readonlyPaths),
    )
    default = container_spec()
    spec.ociVersion = spec.ociVersion or default.ociVersion
    spec.annotations[_KIND] = default.annotations[_KIND]
    spec.root.path = default.root.path
    spec.hostname = spec.domainname = None
    spec.mounts = []
    process.args, process.env, process.user = [], [], types.User()
    process.terminal = process.noNewPrivileges = process.selinuxLabel = None
    linux.maskedPaths, linux.readonlyPaths, linux.devices, linux.namespaces = [], [], [], []
    linux.uidMappings, linux.gidMappings = [], []
    linux.mountLabel = linux.rootfsPropagation = None
    linux.resources.devices = linux.resources.devices or default.linux.resources.devices
    return BaseSpec(
        document=spec.to_json(),
        env=base.env,
        cwd=base.cwd,
        capabilities=base.capabilities,
        mounts=base.mounts,
        devices=base.devices,
        masked_paths=base.masked_paths,
        readonly_paths=base.readonly_paths,
    )


def first_spec(base: BaseSpec, *, privileged: bool) -> types.Spec:
    """A new spec for the entries to write into; a privileged container is not confined."""
    if not base.document:
        return container_spec()
    spec = types.Spec.from_json(base.document)
    if privileged:
        spec.process.apparmorProfile = None
        spec.linux.seccomp = types.LinuxSeccomp()
    return spec


def _mounts(spec: types.Spec) -> tuple[types.Mount, ...]:
    mounts = [
        mount for mount in spec.mounts if (mount.destination, mount.type) != ("/run", "tmpfs")
    ]
    if not any(mount.destination == _CGROUP for mount in mounts):
        mounts += [mount for mount in container_spec().mounts if mount.destination == _CGROUP]
    return tuple(mounts)
