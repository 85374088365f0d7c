"""Security of a container's processes: capabilities, seccomp, AppArmor, masked paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from generated.cri import api_pb2
from generated.oci import types
from generated.oci.defaults import SECCOMP_PROFILE, container_spec, sandbox_spec
from runtime.errors import InvalidArgument

DEFAULT_CAPABILITIES = tuple(
    (container_spec().process.capabilities or types.LinuxCapabilities()).bounding
)
"""The default capabilities of an application container; Docker's set."""

DEFAULT_APPARMOR_PROFILE = "cri-containerd.apparmor.d"
"""The name in spec/oci/apparmor.profile; the runtime loads it before it is used."""

_CONTEXT = "config.linux.security_context"
_ALL = "ALL"
_LOCALHOST = "localhost/"
_RUNTIME_DEFAULTS = ("runtime/default", "docker/default")
_UNCONFINED = ("", "unconfined")


def capabilities(
    *,
    add_capabilities: Sequence[str],
    drop_capabilities: Sequence[str],
    add_ambient_capabilities: Sequence[str],
    privileged: bool,
    sandbox_privileged: bool,
    host_capabilities: Sequence[str],
    default_capabilities: Sequence[str] | None,
) -> types.LinuxCapabilities:
    """The default set, then additions, then removals; for a privileged container, all
    capabilities of this process.

    Adding "ALL" means all capabilities of this process; dropping "ALL" removes the defaults before
    anything is added. Ambient capabilities are kept by a program without file capabilities that
    does not run as root; the kernel requires them to be permitted and inheritable too. Names
    unknown to the kernel are left to the OCI runtime, which ignores them.
    """
    if privileged and not sandbox_privileged:
        raise InvalidArgument(
            "a privileged container requires a privileged pod",
            field=f"{_CONTEXT}.privileged",
        )
    if privileged:
        held, ambient = list(host_capabilities), []
    else:
        add, drop = _names(add_capabilities), _names(drop_capabilities)
        ambient = _ambient_set(add_ambient_capabilities, drop, host_capabilities)
        held = _bounding_set(add, drop, ambient, host_capabilities, default_capabilities)
    return types.LinuxCapabilities(
        bounding=held,
        effective=list(held),
        permitted=list(held),
        inheritable=list(ambient),
        ambient=list(ambient),
    )


def seccomp(
    *,
    profile_type: int | None,
    localhost_ref: str,
    seccomp_profile_path: str,
    unset_seccomp_profile: str,
    localhost_seccomp: types.LinuxSeccomp | None,
    add_capabilities: Sequence[str],
    drop_capabilities: Sequence[str],
    add_ambient_capabilities: Sequence[str],
    privileged: bool,
    available: bool,
    architecture: str,
    kernel: tuple[int, int],
    host_capabilities: Sequence[str],
    default_capabilities: Sequence[str] | None,
) -> types.LinuxSeccomp | None:
    """The requested filter, adapted to the container; None means no filter.

    The message takes precedence over the deprecated path, and that over the configuration. A
    privileged container has no filter. The default filter must allow what a capability allows, so
    it depends on the capabilities.
    """
    wanted = _wanted_seccomp(
        profile_type, localhost_ref, seccomp_profile_path, unset_seccomp_profile
    )
    if privileged or wanted.unconfined:
        return None
    add, drop = _names(add_capabilities), _names(drop_capabilities)
    ambient = _ambient_set(add_ambient_capabilities, drop, host_capabilities)
    return _fitted(
        wanted,
        localhost_seccomp,
        _bounding_set(add, drop, ambient, host_capabilities, default_capabilities),
        available=available,
        architecture=architecture,
        kernel=kernel,
    )


def sandbox_seccomp(
    *,
    profile_type: int | None,
    localhost_ref: str,
    seccomp_profile_path: str,
    unset_seccomp_profile: str,
    localhost_seccomp: types.LinuxSeccomp | None,
    privileged: bool,
    available: bool,
    architecture: str,
    kernel: tuple[int, int],
) -> types.LinuxSeccomp | None:
    """The same for the pause container, which always has the default capabilities."""
    wanted = _wanted_seccomp(
        profile_type, localhost_ref, seccomp_profile_path, unset_seccomp_profile
    )
    if privileged or wanted.unconfined:
        return None
    return _fitted(
        wanted,
        localhost_seccomp,
        DEFAULT_CAPABILITIES,
        available=available,
        architecture=architecture,
        kernel=kernel,
    )


def seccomp_file(
    *,
    profile_type: int | None,
    localhost_ref: str,
    seccomp_profile_path: str,
    privileged: bool,
    unset_seccomp_profile: str,
) -> str:
    """The path of the seccomp profile that is to be read; "" if none is."""
    if privileged:
        return ""
    return _wanted_seccomp(
        profile_type, localhost_ref, seccomp_profile_path, unset_seccomp_profile
    ).localhost


def default_seccomp(
    *, bounding: Iterable[str], architecture: str, kernel: tuple[int, int]
) -> types.LinuxSeccomp:
    """The default filter of spec/oci/seccomp.json, reduced to the rules for a container."""
    held = frozenset(bounding)
    rules = (
        rule for rule in SECCOMP_PROFILE["rules"] if _concerns(rule, held, architecture, kernel)
    )
    return types.LinuxSeccomp(
        defaultAction=SECCOMP_PROFILE["default_action"],
        architectures=list(SECCOMP_PROFILE["architectures"].get(architecture, ())),
        syscalls=[_syscall(rule) for rule in rules],
    )


@dataclass(frozen=True, slots=True)
class _WantedProfile:
    """The profile that a request names, in either field."""

    unconfined: bool = False
    localhost: str = ""
    """Name or path of a profile on the node."""

    @property
    def default(self) -> bool:
        """Whether the runtime's default profile is meant."""
        return not self.unconfined and not self.localhost


def _wanted_seccomp(
    profile_type: int | None, localhost_ref: str, seccomp_profile_path: str, unset: str
) -> _WantedProfile:
    """The requested seccomp profile; a localhost one is the path of a file."""
    if profile_type is not None:
        return _by_message(profile_type, localhost_ref, f"{_CONTEXT}.seccomp")
    name = seccomp_profile_path or unset
    if name in _UNCONFINED:
        return _WantedProfile(unconfined=True)
    return _by_name(name, f"{_CONTEXT}.seccomp_profile_path")


def apparmor_profile(
    *,
    profile_type: int | None,
    localhost_ref: str,
    apparmor_profile: str,
    privileged: bool,
    available: bool,
    localhost_apparmor_loaded: bool,
) -> str | None:
    """The profile that the first process changes to; None if AppArmor is not applied.

    A request without a profile gets the default on a node with AppArmor. A request with a profile
    is refused on a node that cannot enforce it, privileged or not. A privileged container is exempt
    from the default, but not from a profile that it names.
    """
    wanted = _wanted_apparmor(profile_type, localhost_ref, apparmor_profile)
    named = profile_type is not None or apparmor_profile != ""
    field = f"{_CONTEXT}.{'apparmor' if profile_type is not None else 'apparmor_profile'}"
    if wanted.unconfined:
        return None
    if not available:
        if not named:
            return None
        raise InvalidArgument(
            "AppArmor is not supported on this node: it is disabled, or apparmor_parser is missing;"
            " use Unconfined",
            field=field,
        )
    if wanted.localhost:
        if not localhost_apparmor_loaded:
            raise InvalidArgument(
                f"profile {wanted.localhost!r} is not loaded on this node; load it with"
                " apparmor_parser",
                field=field,
            )
        return wanted.localhost
    return None if privileged else DEFAULT_APPARMOR_PROFILE


def apparmor_name(
    *, profile_type: int | None, localhost_ref: str, apparmor_profile: str, available: bool
) -> str:
    """The name of the AppArmor profile that must be loaded on the node; "" for none.

    Without AppArmor nothing is looked up: ``apparmor_profile`` refuses the name.
    """
    if not available:
        return ""
    return _wanted_apparmor(profile_type, localhost_ref, apparmor_profile).localhost


def needs_default_apparmor(
    *,
    profile_type: int | None,
    localhost_ref: str,
    apparmor_profile: str,
    privileged: bool,
    available: bool,
) -> bool:
    """Whether the container gets the default AppArmor profile, which this server loads."""
    if privileged or not available:
        return False
    return _wanted_apparmor(profile_type, localhost_ref, apparmor_profile).default


def _wanted_apparmor(
    profile_type: int | None, localhost_ref: str, apparmor_profile: str
) -> _WantedProfile:
    """The requested AppArmor profile; a localhost one is the name of a loaded profile."""
    if profile_type is not None:
        return _by_message(profile_type, localhost_ref, f"{_CONTEXT}.apparmor")
    if apparmor_profile == "":
        return _WantedProfile()
    if apparmor_profile in _UNCONFINED:
        return _WantedProfile(unconfined=True)
    return _by_name(apparmor_profile, f"{_CONTEXT}.apparmor_profile")


def masked_paths(
    *,
    paths: Sequence[str],
    privileged: bool,
    disable_proc_mount: bool,
    default: Sequence[str] | None,
) -> list[str] | None:
    """The requested paths; a privileged container sees everything.

    The kubelet sends the defaults for procMount: Default, so an empty list means that everything is
    visible. With ``disable_proc_mount`` every container has the defaults.
    """
    if privileged:
        return None
    if disable_proc_mount:
        return list(sandbox_spec().linux.maskedPaths if default is None else default)
    return list(paths) or None


def readonly_paths(
    *,
    paths: Sequence[str],
    privileged: bool,
    disable_proc_mount: bool,
    default: Sequence[str] | None,
) -> list[str] | None:
    """As `masked_paths`, for paths that can only be read."""
    if privileged:
        return None
    if disable_proc_mount:
        return list(sandbox_spec().linux.readonlyPaths if default is None else default)
    return list(paths) or None


def _bounding_set(
    add: Sequence[str],
    drop: Sequence[str],
    ambient: Sequence[str],
    all_capabilities: Sequence[str],
    default_capabilities: Sequence[str] | None,
) -> list[str]:
    """The bounding set of a container that is not privileged."""
    default = DEFAULT_CAPABILITIES if default_capabilities is None else default_capabilities
    base: Sequence[str] = all_capabilities if _ALL in add else default
    if _ALL in drop:
        base = ()
    held = [*base, *add, *ambient]
    return list(dict.fromkeys(_without(held, [*drop, _ALL])))


def _ambient_set(
    add_ambient: Sequence[str], drop: Sequence[str], all_capabilities: Sequence[str]
) -> list[str]:
    add = _names(add_ambient)
    return _without(all_capabilities if _ALL in add else add, drop)


def _fitted(
    wanted: _WantedProfile,
    localhost_seccomp: types.LinuxSeccomp | None,
    bounding: Sequence[str],
    *,
    available: bool,
    architecture: str,
    kernel: tuple[int, int],
) -> types.LinuxSeccomp:
    """The requested filter for a process with the capabilities ``bounding``."""
    if not available:
        raise InvalidArgument(
            "the kernel of this node has no seccomp; use Unconfined",
            field=f"{_CONTEXT}.seccomp",
        )
    if not wanted.localhost:
        return default_seccomp(bounding=bounding, architecture=architecture, kernel=kernel)
    if localhost_seccomp is None:
        # never fall back to no filter: the pod's author requested one
        raise InvalidArgument(
            f"no profile could be read from {wanted.localhost!r}", field=f"{_CONTEXT}.seccomp"
        )
    return localhost_seccomp


def _names(capabilities: Iterable[str]) -> list[str]:
    """Capability names as in the OCI runtime spec; requests may omit CAP_."""
    upper = (name.upper() for name in capabilities)
    return [name if name == _ALL or name.startswith("CAP_") else f"CAP_{name}" for name in upper]


def _without(names: Iterable[str], drop: Iterable[str]) -> list[str]:
    dropped = frozenset(drop)
    return [name for name in names if name not in dropped]


def _by_message(profile_type: int, localhost_ref: str, field: str) -> _WantedProfile:
    """A profile in the notation of CRI ``SecurityProfile``."""
    reference = localhost_ref.removeprefix(_LOCALHOST)
    if profile_type == api_pb2.SecurityProfile.Localhost:
        if not reference:
            raise InvalidArgument(
                "must name a profile, because profile_type is Localhost",
                field=f"{field}.localhost_ref",
            )
        return _WantedProfile(localhost=reference)
    if reference:
        raise InvalidArgument(
            "only allowed with profile_type Localhost", field=f"{field}.localhost_ref"
        )
    return _WantedProfile(unconfined=profile_type == api_pb2.SecurityProfile.Unconfined)


def _by_name(name: str, field: str) -> _WantedProfile:
    """A profile in the notation of the deprecated fields."""
    if name in _RUNTIME_DEFAULTS:
        return _WantedProfile()
    reference = name.removeprefix(_LOCALHOST)
    if name.startswith(_LOCALHOST) and reference:
        return _WantedProfile(localhost=reference)
    raise InvalidArgument(
        f"must be runtime/default, unconfined or localhost/<profile>, not {name!r}", field=field
    )


def _concerns(
    rule: Mapping[str, Any], held: frozenset[str], architecture: str, kernel: tuple[int, int]
) -> bool:
    return (
        kernel >= tuple(rule.get("kernel", (0, 0)))
        and architecture in rule.get("architectures", (architecture,))
        and architecture not in rule.get("not_architectures", ())
        and ("capability" not in rule or rule["capability"] in held)
        and ("without_capability" not in rule or rule["without_capability"] not in held)
    )


def _syscall(rule: Mapping[str, Any]) -> types.LinuxSyscall:
    return types.LinuxSyscall(
        names=list(rule["names"]),
        action=rule.get("action", "SCMP_ACT_ALLOW"),
        errnoRet=rule.get("errno"),
        args=[types.LinuxSeccompArg.from_dict(condition) for condition in rule.get("args", ())],
    )
