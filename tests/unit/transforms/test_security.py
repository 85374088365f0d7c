"""Capabilities, seccomp, AppArmor and masked paths."""

from __future__ import annotations

from typing import Any

import pytest

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.transforms import security
from runtime.transforms.security import DEFAULT_CAPABILITIES

ALL = ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_ADMIN")
Profile = api_pb2.SecurityProfile


@pytest.mark.parametrize(
    ("add", "drop", "ambient", "bounding", "kept"),
    [
        pytest.param([], [], [], list(DEFAULT_CAPABILITIES), [], id="default"),
        pytest.param(
            ["sys_time"], [], [], [*DEFAULT_CAPABILITIES, "CAP_SYS_TIME"], [], id="add in any case"
        ),
        pytest.param(
            ["CAP_CHOWN"], [], [], list(DEFAULT_CAPABILITIES), [], id="held already, with prefix"
        ),
        pytest.param([], ["CHOWN"], [], [*DEFAULT_CAPABILITIES[1:]], [], id="drop"),
        pytest.param([], ["ALL"], [], [], [], id="drop all"),
        pytest.param(["KILL"], ["all"], [], ["CAP_KILL"], [], id="drop all, add one"),
        pytest.param(["ALL"], [], [], list(ALL), [], id="add all is what the server has"),
        pytest.param(
            ["ALL"], ["SYS_ADMIN"], [], ["CAP_CHOWN", "CAP_NET_ADMIN"], [], id="all but one"
        ),
        pytest.param(["KILL"], ["KILL", "ALL"], [], [], [], id="a removal comes last"),
        pytest.param(
            [], ["ALL"], ["NET_ADMIN"], ["CAP_NET_ADMIN"], ["CAP_NET_ADMIN"], id="ambient"
        ),
        pytest.param([], ["ALL"], ["ALL"], list(ALL), list(ALL), id="all ambient"),
        pytest.param([], ["ALL", "KILL"], ["KILL"], [], [], id="ambient and dropped"),
    ],
)
def test_capabilities(
    add: list[str], drop: list[str], ambient: list[str], bounding: list[str], kept: list[str]
) -> None:
    found = security.capabilities(
        add_capabilities=add,
        drop_capabilities=drop,
        add_ambient_capabilities=ambient,
        privileged=False,
        sandbox_privileged=False,
        host_capabilities=ALL,
        default_capabilities=None,
    )
    assert found == types.LinuxCapabilities(bounding, bounding, kept, bounding, kept)


def test_a_privileged_container_has_what_the_server_has() -> None:
    found = security.capabilities(
        add_capabilities=(),
        drop_capabilities=["ALL"],
        add_ambient_capabilities=(),
        privileged=True,
        sandbox_privileged=True,
        host_capabilities=ALL,
        default_capabilities=None,
    )
    assert found == types.LinuxCapabilities([*ALL], [*ALL], [], [*ALL], [])


def test_a_privileged_container_needs_a_privileged_pod() -> None:
    with pytest.raises(
        InvalidArgument, match=r"privileged: a privileged container requires a privileged pod"
    ):
        security.capabilities(
            add_capabilities=(),
            drop_capabilities=(),
            add_ambient_capabilities=(),
            privileged=True,
            sandbox_privileged=False,
            host_capabilities=ALL,
            default_capabilities=None,
        )


LOCALHOST = types.LinuxSeccomp(defaultAction="SCMP_ACT_LOG")


def build_seccomp(
    profile: Profile | None = None,
    path: str = "",
    unset: str = "",
    *,
    privileged: bool = False,
    available: bool = True,
    localhost: types.LinuxSeccomp | None = LOCALHOST,
    add: tuple[str, ...] = (),
) -> types.LinuxSeccomp | None:
    return security.seccomp(
        profile_type=profile.profile_type if profile is not None else None,
        localhost_ref=profile.localhost_ref if profile is not None else "",
        seccomp_profile_path=path,
        unset_seccomp_profile=unset,
        localhost_seccomp=localhost,
        add_capabilities=add,
        drop_capabilities=(),
        add_ambient_capabilities=(),
        privileged=privileged,
        available=available,
        architecture="amd64",
        kernel=(6, 1),
        host_capabilities=ALL,
        default_capabilities=None,
    )


@pytest.mark.parametrize(
    ("profile", "path", "unset", "expected"),
    [
        pytest.param(None, "", "", None, id="none given"),
        pytest.param(None, "", "runtime/default", "default", id="the config's"),
        pytest.param(None, "unconfined", "runtime/default", None, id="the path wins"),
        pytest.param(None, "docker/default", "", "default", id="an old name"),
        pytest.param(None, "localhost//a.json", "", "localhost", id="a file by the path"),
        pytest.param(
            Profile(profile_type=Profile.RuntimeDefault),
            "unconfined",
            "",
            "default",
            id="the message wins",
        ),
        pytest.param(Profile(profile_type=Profile.Unconfined), "", "", None, id="unconfined"),
        pytest.param(
            Profile(profile_type=Profile.Localhost, localhost_ref="/a.json"),
            "",
            "",
            "localhost",
            id="a file",
        ),
    ],
)
def test_which_filter(profile: Profile | None, path: str, unset: str, expected: str | None) -> None:
    found = build_seccomp(profile, path, unset)
    kind = None if found is None else "localhost" if found is LOCALHOST else "default"
    assert kind == expected
    assert build_seccomp(profile, path, unset, privileged=True) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": Profile(localhost_ref="x")}, "only allowed with profile_type Localhost"),
        ({"profile": Profile(profile_type=Profile.Localhost)}, "must name a profile"),
        ({"path": "default"}, "must be runtime/default, unconfined or localhost/"),
        ({"path": "localhost/"}, "must be runtime/default, unconfined or localhost/"),
        ({"path": "runtime/default", "available": False}, "kernel of this node has no seccomp"),
        ({"path": "localhost/a", "localhost": None}, "no profile could be read from 'a'"),
    ],
)
def test_filters_that_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        build_seccomp(**arguments)  # type: ignore[arg-type]


def allowed(filter_: types.LinuxSeccomp, name: str) -> list[types.LinuxSyscall]:
    return [rule for rule in filter_.syscalls if name in rule.names]


def test_the_default_filter_follows_capabilities() -> None:
    plain = security.default_seccomp(bounding=(), architecture="amd64", kernel=(6, 1))
    admin = security.default_seccomp(
        bounding=("CAP_SYS_ADMIN",), architecture="amd64", kernel=(6, 1)
    )
    assert not allowed(plain, "mount") and allowed(admin, "mount")
    assert [rule.errnoRet for rule in allowed(plain, "clone3")] == [38]
    assert [rule.action for rule in allowed(admin, "clone3")] == ["SCMP_ACT_ALLOW"]
    assert [len(rule.args) for rule in allowed(plain, "clone")] == [1]
    assert allowed(plain, "lsm_get_self_attr") and allowed(plain, "lsm_list_modules")
    assert [rule.args[0].op for rule in allowed(plain, "socket")] == [
        "SCMP_CMP_LT",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GT",
    ]


def test_the_default_filter_follows_kernel_and_architecture() -> None:
    old = security.default_seccomp(bounding=(), architecture="amd64", kernel=(4, 4))
    arm = security.default_seccomp(bounding=(), architecture="arm64", kernel=(6, 1))
    s390 = security.default_seccomp(bounding=(), architecture="s390x", kernel=(6, 1))
    assert not allowed(old, "ptrace") and allowed(arm, "ptrace")
    assert allowed(old, "arch_prctl") and not allowed(arm, "arch_prctl")
    assert arm.architectures == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert [rule.args[0].index for rule in allowed(s390, "clone")] == [1]


def test_the_default_filter_never_allows_what_escapes_it() -> None:
    everything = security.default_seccomp(
        bounding=("CAP_SYS_ADMIN", "CAP_BPF"), architecture="amd64", kernel=(6, 1)
    )
    names = {name for rule in everything.syscalls for name in rule.names}
    assert not {"io_uring_setup", "io_uring_enter", "keyctl", "kexec_load", "userfaultfd"} & names


@pytest.mark.parametrize(
    ("profile", "name", "privileged", "available", "expected"),
    [
        pytest.param(None, "", False, True, security.DEFAULT_APPARMOR_PROFILE, id="none given"),
        pytest.param(None, "", False, False, None, id="none given, none there"),
        pytest.param(None, "", True, True, None, id="privileged escapes the default"),
        pytest.param(None, "localhost/mine", True, True, "mine", id="but no named one"),
        pytest.param(None, "unconfined", False, True, None, id="unconfined by name"),
        pytest.param(
            None, "runtime/default", False, True, security.DEFAULT_APPARMOR_PROFILE, id="by name"
        ),
        pytest.param(
            Profile(profile_type=Profile.Unconfined),
            "localhost/mine",
            False,
            True,
            None,
            id="the message wins",
        ),
        pytest.param(
            Profile(profile_type=Profile.Unconfined), "", False, False, None, id="nothing wanted"
        ),
        pytest.param(
            Profile(profile_type=Profile.Localhost, localhost_ref="localhost/mine"),
            "",
            False,
            True,
            "mine",
            id="a loaded profile",
        ),
    ],
)
def test_which_apparmor_profile(
    profile: Profile | None, name: str, privileged: bool, available: bool, expected: str | None
) -> None:
    found = security.apparmor_profile(
        profile_type=profile.profile_type if profile is not None else None,
        localhost_ref=profile.localhost_ref if profile is not None else "",
        apparmor_profile=name,
        privileged=privileged,
        available=available,
        localhost_apparmor_loaded=True,
    )
    assert found == expected


@pytest.mark.parametrize("privileged", [True, False])
def test_apparmor_profiles_that_the_node_cannot_enforce_are_refused(privileged: bool) -> None:
    with pytest.raises(InvalidArgument, match="AppArmor is not supported on this node"):
        security.apparmor_profile(
            profile_type=Profile.RuntimeDefault,
            localhost_ref="",
            apparmor_profile="",
            privileged=privileged,
            available=False,
            localhost_apparmor_loaded=False,
        )
    with pytest.raises(InvalidArgument, match="'mine' is not loaded"):
        security.apparmor_profile(
            profile_type=None,
            localhost_ref="",
            apparmor_profile="localhost/mine",
            privileged=False,
            available=True,
            localhost_apparmor_loaded=False,
        )


@pytest.mark.parametrize(
    ("profile_type", "reference", "path", "unset", "privileged", "expected"),
    [
        (Profile.Localhost, "localhost//a.json", "", "", False, "/a.json"),
        (Profile.Localhost, "/a.json", "", "", True, ""),
        (Profile.RuntimeDefault, "", "localhost//b.json", "", False, ""),
        (None, "", "localhost//b.json", "", False, "/b.json"),
        (None, "", "", "localhost//c.json", False, "/c.json"),
        (None, "", "", "", False, ""),
    ],
)
def test_the_filter_that_is_read_from_the_node(
    profile_type: int | None, reference: str, path: str, unset: str, privileged: bool, expected: str
) -> None:
    found = security.seccomp_file(
        profile_type=profile_type,
        localhost_ref=reference,
        seccomp_profile_path=path,
        privileged=privileged,
        unset_seccomp_profile=unset,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("profile_type", "reference", "name", "privileged", "available", "loaded", "default"),
    [
        (Profile.Localhost, "mine", "", False, True, "mine", False),
        (Profile.Localhost, "mine", "", False, False, "", False),
        (None, "", "localhost/mine", True, True, "mine", False),
        (None, "", "", False, True, "", True),
        (None, "", "", False, False, "", False),
        (None, "", "", True, True, "", False),
        (Profile.Unconfined, "", "", False, True, "", False),
    ],
)
def test_what_apparmor_needs_on_the_node(
    profile_type: int | None,
    reference: str,
    name: str,
    privileged: bool,
    available: bool,
    loaded: str,
    default: bool,
) -> None:
    assert loaded == security.apparmor_name(
        profile_type=profile_type,
        localhost_ref=reference,
        apparmor_profile=name,
        available=available,
    )
    assert default is security.needs_default_apparmor(
        profile_type=profile_type,
        localhost_ref=reference,
        apparmor_profile=name,
        privileged=privileged,
        available=available,
    )


HIDDEN = [security.masked_paths, security.readonly_paths]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_nothing_is_hidden_unless_asked_for(hidden: Any) -> None:
    def of(*paths: str, privileged: bool = False) -> Any:
        return hidden(paths=paths, privileged=privileged, disable_proc_mount=False, default=None)

    assert of("/proc/kcore") == ["/proc/kcore"]
    assert of() is None
    assert of("/proc/kcore", privileged=True) is None


@pytest.mark.parametrize(
    ("hidden", "usual"), list(zip(HIDDEN, ("/proc/kcore", "/proc/sys"), strict=True))
)
def test_with_disable_proc_mount_the_usual_paths_are_hidden(hidden: Any, usual: str) -> None:
    def of(privileged: bool, default: Any) -> Any:
        return hidden(paths=[], privileged=privileged, disable_proc_mount=True, default=default)

    assert usual in of(False, None)
    assert of(False, ["/own"]) == ["/own"]
    assert of(False, []) == []
    assert of(True, None) is None
