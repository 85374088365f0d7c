"""Namespaces of pods and containers, and the sysctls that belong to them."""

from __future__ import annotations

from typing import Any

import pytest

from generated import plans
from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.oci import defaults, namespace_option, types
from generated.validators import user_namespace as validators
from runtime.errors import InvalidArgument
from runtime.transforms import facts, namespaces, sysctls

CONTAINER, NODE, POD, TARGET = api_pb2.CONTAINER, api_pb2.NODE, api_pb2.POD, api_pb2.TARGET


def options(**modes: Any) -> api_pb2.NamespaceOption:
    return api_pb2.NamespaceOption(**modes)


def userns(
    mode: api_pb2.NamespaceMode = POD,
    *lengths: int,
    first: int = 0,
    **others: Any,
) -> api_pb2.NamespaceOption:
    ranges = [
        api_pb2.IDMapping(container_id=first, host_id=65536, length=length) for length in lengths
    ]
    return api_pb2.NamespaceOption(
        **others, userns_options=api_pb2.UserNamespace(mode=mode, uids=ranges, gids=ranges)
    )


def shown(found: list[types.LinuxNamespace]) -> dict[str, str | None]:
    return {namespace.type: namespace.path for namespace in found}


def mode_of(options: api_pb2.NamespaceOption | None) -> api_pb2.NamespaceMode | None:
    if options is None or not options.HasField("userns_options"):
        return None
    return options.userns_options.mode


def build_pod(asked: api_pb2.NamespaceOption | None = None, *, problem: str = "") -> types.Spec:
    spec = defaults.sandbox_spec()
    metadata = facts.SandboxMetadata("id", "name", api_pb2.PodSandboxConfig(), "/netns")
    namespace_option.apply(
        asked or options(),
        spec,
        handler=facts.Handler("runc", user_namespaces_problem=problem),
        sandbox=facts.Sandbox(
            metadata,
            facts.SandboxStatus(SandboxState.READY),
            facts.SandboxFiles(userns="/userns"),
        ),
    )
    return spec


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(
            None,
            {"pid": None, "ipc": None, "uts": None, "network": "/netns", "mount": None},
            id="all of its own",
        ),
        pytest.param(
            options(pid=CONTAINER),
            {"pid": None, "ipc": None, "uts": None, "network": "/netns", "mount": None},
            id="the pause process is always alone",
        ),
        pytest.param(
            options(network=NODE), {"pid": None, "ipc": None, "mount": None}, id="no host name"
        ),
        pytest.param(options(network=NODE, pid=NODE, ipc=NODE), {"mount": None}, id="the node's"),
        pytest.param(
            userns(NODE),
            {"pid": None, "ipc": None, "uts": None, "network": "/netns", "mount": None},
            id="the node's user namespace",
        ),
        pytest.param(
            userns(POD, 65536),
            {
                "pid": None,
                "ipc": None,
                "uts": None,
                "network": "/netns",
                "mount": None,
                "user": "/userns",
            },
            id="user namespace",
        ),
    ],
)
def test_sandbox_namespaces(
    asked: api_pb2.NamespaceOption | None, expected: dict[str, str | None]
) -> None:
    assert shown(build_pod(asked).linux.namespaces) == expected


def test_a_handler_without_user_namespaces_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="handler does not support user namespaces: old runc"):
        build_pod(userns(POD, 65536), problem="old runc")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (userns(POD), "uids: must be one range"),
        (userns(POD, 1, 1), "uids: must be one range"),
        (userns(POD, 0), "uids: must be one range"),
        (userns(POD, 10, first=1), "starts at container_id 0"),
        (userns(POD, 2**32 - 65536), "uids: must end at ID 4294967294 of the node"),
        (userns(NODE, 10), "must be empty with mode NODE"),
    ],
)
def test_ids_that_are_refused(asked: api_pb2.NamespaceOption, message: str) -> None:
    for refusing in (build_pod, pod_ids):
        with pytest.raises(InvalidArgument, match=message):
            refusing(asked)


@pytest.mark.parametrize("name", ["pid", "ipc"])
def test_a_user_namespace_excludes_namespaces_of_the_node(name: str) -> None:
    asked = userns(POD, 10, **{name: NODE})
    with pytest.raises(
        InvalidArgument, match=rf"options\.{name}: must not be NODE in a pod with a user"
    ):
        pod_ids(asked)


@pytest.mark.parametrize("mode", [CONTAINER, TARGET])
def test_a_user_namespace_is_the_pods_or_the_nodes(mode: api_pb2.NamespaceMode) -> None:
    (found,) = validators.check(userns(mode, 10).userns_options, "options.")
    assert (found.field, found.rule) == ("options.mode", "allowed_enum")


def build_container(
    asked: api_pb2.NamespaceOption | None = None,
    pod: api_pb2.NamespaceOption | None = None,
    *,
    target_pid: int = 0,
    privileged: bool = False,
    cgroup_unified: bool = False,
) -> dict[str, str | None]:
    asked = asked or options()
    return shown(
        namespaces.container_namespaces(
            pid=asked.pid,
            target_id=asked.target_id,
            target_pid=target_pid,
            userns_mode=mode_of(asked),
            pod_userns_mode=mode_of(pod),
            pause_pid=7,
            privileged=privileged,
            cgroup_unified=cgroup_unified,
        )
    )


JOINED = {
    "ipc": "/proc/7/ns/ipc",
    "uts": "/proc/7/ns/uts",
    "mount": None,
    "network": "/proc/7/ns/net",
}


@pytest.mark.parametrize(
    ("asked", "pid"),
    [
        pytest.param(None, "/proc/7/ns/pid", id="the pod's by default"),
        pytest.param(options(pid=POD), "/proc/7/ns/pid", id="the pod's"),
        pytest.param(options(pid=NODE), "/proc/7/ns/pid", id="the node's, as the pause has it"),
        pytest.param(options(pid=CONTAINER), None, id="one of its own"),
        pytest.param(options(pid=TARGET), "/proc/9/ns/pid", id="another container's"),
    ],
)
def test_container_namespaces(asked: api_pb2.NamespaceOption | None, pid: str | None) -> None:
    assert build_container(asked, target_pid=9) == {"pid": pid} | JOINED


def test_a_target_must_run() -> None:
    asked = api_pb2.NamespaceOption(pid=TARGET, target_id="abc")
    with pytest.raises(InvalidArgument, match=r"target_id: container 'abc' must be running"):
        build_container(asked)


@pytest.mark.parametrize(
    ("privileged", "unified", "expected"),
    [(False, True, True), (True, True, False), (False, False, False)],
)
def test_cgroup_namespace(privileged: bool, unified: bool, expected: bool) -> None:
    found = build_container(privileged=privileged, cgroup_unified=unified)
    assert ("cgroup" in found) is expected


def test_a_container_has_its_pods_user_namespace() -> None:
    pod = userns(POD, 65536)
    assert build_container(pod, pod)["user"] == "/proc/7/ns/user"
    for other in (None, userns(NODE)):
        with pytest.raises(InvalidArgument, match=r"userns_options: must be the pod's"):
            build_container(other, pod)
    with pytest.raises(InvalidArgument, match=r"userns_options: must be the pod's"):
        build_container(pod, None)


def test_a_container_has_its_pods_ids() -> None:
    ids, others = ([types.LinuxIDMapping(0, 65536, length)] for length in (65536, 65535))
    assert namespaces.joined_mappings(own=ids, of_pod=ids) == ids
    assert namespaces.joined_mapping(of_pod=ids) == "0:65536:65536"
    assert namespaces.joined_mappings(own=[], of_pod=[]) == []
    assert namespaces.joined_mapping(of_pod=[]) == ""
    none: list[types.LinuxIDMapping] = []
    for own in (none, others):
        with pytest.raises(InvalidArgument, match=r"userns_options: must be the pod's"):
            namespaces.joined_mappings(own=own, of_pod=ids)


def pod_ids(options: api_pb2.NamespaceOption) -> tuple[str, str]:
    config = api_pb2.PodSandboxConfig()
    config.linux.security_context.namespace_options.CopyFrom(options)
    plan = plans.plan_sandbox(config)
    return plan.uid_mapping, plan.gid_mapping


def test_the_plan_has_the_ids_in_the_form_of_snapshot_labels() -> None:
    assert pod_ids(userns(POD, 1000)) == ("0:65536:1000", "0:65536:1000")
    for nodes in (options(), userns(NODE)):
        assert pod_ids(nodes) == ("", "")


PORTS = {"net.ipv4.ip_unprivileged_port_start": "0"}
PING = {"net.ipv4.ping_group_range": "0 2147483647"}


@pytest.mark.parametrize(
    ("given", "asked", "kernel", "expected"),
    [
        pytest.param({}, None, (6, 1), PORTS | PING, id="defaults"),
        pytest.param(
            {"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shm_rmid_forced": "1"},
            None,
            (6, 1),
            {"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shm_rmid_forced": "1"} | PING,
            id="the request wins",
        ),
        pytest.param({}, options(network=NODE), (6, 1), {}, id="not on the node's network"),
        pytest.param({}, userns(POD, 65536), (6, 1), PORTS, id="no ping with mapped groups"),
        pytest.param({}, None, (4, 10), {}, id="an old kernel"),
    ],
)
def test_sysctls(
    given: dict[str, str],
    asked: api_pb2.NamespaceOption | None,
    kernel: tuple[int, int],
    expected: dict[str, str],
) -> None:
    assert (
        sysctls.of_pod(
            sysctls=given,
            network=asked.network if asked else POD,
            userns_mode=mode_of(asked),
            kernel=kernel,
            unprivileged_ports=True,
            unprivileged_icmp=True,
            in_user_namespace=False,
        )
        == expected
    )


def test_ping_keeps_the_kernels_default_if_groups_are_missing() -> None:
    found = sysctls.of_pod(
        sysctls={},
        network=POD,
        userns_mode=None,
        kernel=(6, 1),
        unprivileged_ports=True,
        unprivileged_icmp=True,
        in_user_namespace=True,
    )
    assert found == PORTS


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        *(
            (invalid, "must be a kernel param")
            for invalid in (
                *({"": "1"}, {"kernel.shm_rmid_forced": ""}),
                *({"net/../../etc": "1"}, {".x": "1"}, {"/x": "1"}),
            )
        ),
        ({"net.core." + "x" * 256: "1"}, "names of at most 255 bytes"),
        ({"net." * 1100 + "x": "1"}, "a path of at most 4095 bytes"),
    ],
)
def test_an_invalid_kernel_parameter_is_refused(asked: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"config\.linux\.sysctls: .*{why}"):
        sysctls.of_pod(
            sysctls=asked,
            network=POD,
            userns_mode=None,
            kernel=(6, 1),
            unprivileged_ports=True,
            unprivileged_icmp=True,
            in_user_namespace=False,
        )
