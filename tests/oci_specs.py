"""OCI specs built from CRI messages only, with the facts of an invented node."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from generated.containerd import containers_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import container_config, defaults, pod_sandbox_config, types
from runtime.transforms import base_spec, facts

SANDBOX_ID = "5a" * 32
CONTAINER_ID = "c0" * 32
ALL_CAPABILITIES = ("CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")

HOST = facts.Host(
    hostname="node",
    kernel=(6, 1),
    capabilities=ALL_CAPABILITIES,
    cgroup_unified=True,
    cgroup_mount_options=("nsdelegate",),
    swap_controller=True,
    hugetlb_controller=True,
    disable_hugetlb_controller=False,
    seccomp=True,
    apparmor=True,
    devices=(types.LinuxDevice(path="/dev/fuse", type="c", major=10, minor=229),),
)
HANDLER = facts.Handler(name="runc", recursive_read_only=True, user_namespaces_problem="")
PAUSE = facts.Image(id="sha256:aa", reference="registry.k8s.io/pause:3.10", entrypoint=("/pause",))
IMAGE = facts.Image(
    id="sha256:bb",
    reference="docker.io/library/app:1",
    entrypoint=("/app",),
    cmd=("--serve",),
    env=("PATH=/app/bin", "LANG=C"),
    working_dir="/srv",
    labels={"maintainer": "someone"},
)
FILES = facts.SandboxFiles(
    root_dir="/root-dir",
    state_dir="/state-dir",
    hostname="/root-dir/hostname",
    hosts="/root-dir/hosts",
    resolv_conf="/root-dir/resolv.conf",
    shm="/state-dir/shm",
)
SECURITY = facts.Security(
    localhost_seccomp=types.LinuxSeccomp(defaultAction="SCMP_ACT_LOG"),
    localhost_apparmor_loaded=True,
)


@dataclass(frozen=True)
class Built:
    """What the builders wrote."""

    spec: types.Spec
    record: containers_pb2.Container

    def flat(self) -> dict[str, Any]:
        """{target: value} of everything that is set; lists and their items as a whole."""
        return dict(_leaves("", self.spec.to_dict())) | {
            f"Container.labels[{key}]": value for key, value in self.record.labels.items()
        }


def sandbox(
    config: api_pb2.PodSandboxConfig, *, process_label: str = "", **changes: Any
) -> facts.Sandbox:
    """The facts of a running pod with that config."""
    own_network = config.linux.security_context.namespace_options.network != api_pb2.NODE
    metadata = facts.SandboxMetadata(
        id=SANDBOX_ID,
        name="reserved",
        config=config,
        netns_path="/var/run/netns/cni-1" if own_network else "",
        process_label=process_label,
    )
    status = facts.SandboxStatus(SandboxState.READY, pid=4711)
    return facts.Sandbox(metadata, status, FILES, security=SECURITY, **changes)


def container(
    config: api_pb2.ContainerConfig, *, process_label: str = "", **changes: Any
) -> facts.Container:
    """The facts of a container with that config; its mounts resolve to themselves."""
    metadata = facts.ContainerMetadata(
        id=CONTAINER_ID,
        name="reserved",
        sandbox_id=SANDBOX_ID,
        config=config,
        image_ref=IMAGE.id,
        image_name=IMAGE.reference,
        process_label=process_label,
    )
    given: dict[str, Any] = {
        "mounts": tuple(facts.MountSource(m.host_path, shared=True) for m in config.mounts),
        "target_pid": 4712,
        "security": SECURITY,
        "devices": tuple(() for _ in config.devices),
    }
    return facts.Container(
        metadata, facts.ContainerStatus(ContainerState.CREATED), **(given | changes)
    )


def build_pod(
    config: api_pb2.PodSandboxConfig,
    *,
    host: facts.Host = HOST,
    handler: facts.Handler = HANDLER,
    image: facts.Image = PAUSE,
    user: facts.User | None = None,
    **changes: Any,
) -> Built:
    """The pause container of a pod."""
    built = Built(defaults.sandbox_spec(), containers_pb2.Container())
    pod_sandbox_config.apply(
        config,
        built.spec,
        handler=handler,
        host=host,
        image=image,
        record=built.record,
        sandbox=sandbox(config, **changes),
        user=user or facts.User(),
    )
    return built


def build_container(
    config: api_pb2.ContainerConfig,
    pod: api_pb2.PodSandboxConfig | None = None,
    *,
    host: facts.Host = HOST,
    handler: facts.Handler = HANDLER,
    image: facts.Image = IMAGE,
    user: facts.User | None = None,
    **changes: Any,
) -> Built:
    """An application container in a pod."""
    privileged = config.linux.security_context.privileged
    first = base_spec.first_spec(handler.base, privileged=privileged)
    built = Built(first, containers_pb2.Container())
    container_config.apply(
        config,
        built.spec,
        container=container(config, **changes),
        handler=handler,
        host=host,
        image=image,
        record=built.record,
        sandbox=sandbox(pod or api_pb2.PodSandboxConfig()),
        user=user or facts.User(),
    )
    return built


def check_schema(spec: types.Spec) -> None:
    """Raise jsonschema.ValidationError if the spec violates our schema."""
    _validator().validate(json.loads(spec.to_json()))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    path = Path(__file__).parents[1] / "spec" / "oci" / "runtime.schema.json"
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))


_MAPS = ("annotations", "linux.sysctl", "linux.resources.unified")


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(path, value)]
    found = []
    for key, child in value.items():
        below = f"{path}[{key}]" if path in _MAPS else f"{path}.{key}".lstrip(".")
        found += _leaves(below, child)
    return found
