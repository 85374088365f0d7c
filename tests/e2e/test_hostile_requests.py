"""Unprivileged local users, and requests that no kubelet sends, on a real daemon."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Node

from .conftest import BUSYBOX

_NOBODY = 65534


def _as_nobody(work: Callable[[], object]) -> int:
    """The errno with which ``work`` fails for an unprivileged user; 0 if it succeeds."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            work()
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_other_users_cannot_access_pods_files(cri: Cri, node: Node) -> None:
    # the temporary directory above is not accessible either, unlike /run and /var/lib
    node.directory.chmod(0o711)
    (node.directory / "state").chmod(0o711)
    pod = cri.run_pod(pod_config("private"))
    state = node.directory / "state" / "io.containerd.grpc.v1.cri"
    shm = state / "sandboxes" / pod / "shm"
    assert shm.is_dir()
    assert _as_nobody(lambda: os.stat(node.directory / "state")) == 0
    assert _as_nobody(lambda: os.listdir(state / "sandboxes")) == errno.EACCES
    assert _as_nobody(lambda: (shm / "planted").write_text("x")) == errno.EACCES
    assert _as_nobody(lambda: os.open(state / "lock", os.O_RDONLY)) == errno.EACCES


def _with(**fields: Any) -> Callable[[api_pb2.ContainerConfig], None]:
    return lambda config: config.MergeFrom(api_pb2.ContainerConfig(**fields))


def _resources(**fields: Any) -> Callable[[api_pb2.ContainerConfig], None]:
    return _with(
        linux=api_pb2.LinuxContainerConfig(resources=api_pb2.LinuxContainerResources(**fields))
    )


CONTAINERS = {
    "config.log_path: must not contain a NUL": _with(log_path="a\0b"),
    "config.log_path: must be a file below": _with(log_path="../../../x.log"),
    "config.mounts[0].host_path: must not contain a NUL": _with(
        mounts=[api_pb2.Mount(container_path="/a", host_path="/a\0")]
    ),
    "config.mounts[0].host_path: must be an absolute path": _with(
        mounts=[api_pb2.Mount(container_path="/a", host_path="rel/ative")]
    ),
    "config.devices[0].host_path: ": _with(
        devices=[api_pb2.Device(host_path="/proc/1/root/x", permissions="rw")]
    ),
    "config.linux.resources.memory_limit_in_bytes: must be -1": _resources(
        memory_limit_in_bytes=-5
    ),
    "config.linux.resources.cpu_quota: must be -1": _resources(cpu_quota=-(2**63)),
    "config.annotations[cdi.k8s.io/x]: must be a CDI device": _with(
        annotations={"cdi.k8s.io/x": "vendor.com/gpu"}
    ),
    "config.envs[0].value: must not contain a NUL": _with(
        envs=[api_pb2.KeyValue(key="A", value=b"\0")]
    ),
}


@pytest.mark.parametrize("said", CONTAINERS)
def test_a_hostile_container_is_refused_with_its_field(cri: Cri, node: Node, said: str) -> None:
    logged = node.log_size()
    pod_of = pod_config("hostile")
    pod_of.log_directory = str(node.logs / "hostile")
    pod = cri.run_pod(pod_of)
    config = container_config(BUSYBOX, "true")
    CONTAINERS[said](config)
    with pytest.raises(grpc.RpcError) as refused:
        cri.create(pod, config, pod_of)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (refused.value.details() or "")
    assert "Traceback" not in node.log_since(logged)


def _pod(**fields: Any) -> api_pb2.PodSandboxConfig:
    return pod_config("hostile", **fields)


PODS = {
    "config.metadata.namespace: must not contain any of ; =": _pod(
        metadata=api_pb2.PodSandboxMetadata(namespace="a;K8S_POD_UID=b")
    ),
    "config.log_directory: must be an absolute path": _pod(log_directory="rel/ative"),
    "config.linux.cgroup_parent: must not contain": _pod(
        linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent="/a/../../x")
    ),
    "config.linux.sysctls: must be a kernel parameter": _pod(
        linux=api_pb2.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": ""})
    ),
    "config.annotations[io.kubernetes.cri.untrusted-workload]: an untrusted pod must not": _pod(
        annotations={"io.kubernetes.cri.untrusted-workload": "true"},
        linux=api_pb2.LinuxPodSandboxConfig(
            security_context=api_pb2.LinuxSandboxSecurityContext(
                namespace_options=api_pb2.NamespaceOption(pid=api_pb2.NODE)
            )
        ),
    ),
}


@pytest.mark.parametrize("said", PODS)
def test_a_hostile_pod_is_refused_with_its_field(cri: Cri, node: Node, said: str) -> None:
    logged = node.log_size()
    with pytest.raises(grpc.RpcError) as refused:
        cri.run_pod(PODS[said])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert said in (refused.value.details() or "")
    assert not cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest(), timeout=10).items
    assert "Traceback" not in node.log_since(logged)


def test_the_verbose_status_shows_the_networks_in_use(cri: Cri, node: Node) -> None:
    info = cri.runtime.Status(api_pb2.StatusRequest(verbose=True), timeout=10).info
    assert json.loads(info["config"])["maxContainerLogLineSize"] == 16384
    (network,) = json.loads(info["cniconfig"])["Networks"]
    assert (network["IFName"], network["Config"]["Name"]) == ("eth0", node.network)
    assert [p["Network"]["type"] for p in network["Config"]["Plugins"]] == ["bridge", "portmap"]
    assert info["lastCNILoadStatus"] == "OK"
    assert Path(json.loads(info["config"])["stateDir"]).is_dir()
