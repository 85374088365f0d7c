"""Annotations with which pods request things, and those that this server writes."""

from __future__ import annotations

from dataclasses import replace

from generated import provenance
from generated.cri import api_pb2
from runtime.transforms.annotations import OWN, sandbox_resources
from tests import oci_specs

ALL = ("*", "*/*")
OPEN = replace(oci_specs.HANDLER, pod_annotations=ALL, container_annotations=ALL)
METADATA = api_pb2.PodSandboxMetadata(name="p", namespace="n", uid="u")
POD = api_pb2.PodSandboxConfig(
    metadata=METADATA,
    log_directory="/var/log/pods/p",
    linux=api_pb2.LinuxPodSandboxConfig(
        resources=api_pb2.LinuxContainerResources(memory_limit_in_bytes=1 << 20)
    ),
)
CONTAINER = api_pb2.ContainerConfig(metadata=api_pb2.ContainerMetadata(name="c"))


def test_pod_annotations_never_replace_those_of_this_server() -> None:
    pod = oci_specs.build_pod(POD, handler=OPEN).spec.annotations
    container = oci_specs.build_container(CONTAINER, POD, handler=OPEN).spec.annotations
    hostile = {key: "evil" for key in {**pod, **container}} | {"io.example/asked": "1"}
    evil_pod = api_pb2.PodSandboxConfig()
    evil_pod.CopyFrom(POD)
    evil_pod.annotations.update(hostile)
    evil_container = api_pb2.ContainerConfig()
    evil_container.CopyFrom(CONTAINER)
    evil_container.annotations.update(hostile)
    asked = {"io.example/asked": "1"}
    assert oci_specs.build_pod(evil_pod, handler=OPEN).spec.annotations == pod | asked
    built = oci_specs.build_container(evil_container, evil_pod, handler=OPEN).spec.annotations
    # a container's spec has none of the kubelet's sums, so there its pod's author may write them
    sums = sandbox_resources(cpu_period=0, cpu_quota=0, cpu_shares=0, memory_limit_in_bytes=1 << 20)
    assert {key: built[key] for key in built if key not in sums} == container | asked


def test_every_annotation_that_an_entry_writes_is_kept() -> None:
    targets = {target for target in provenance.TARGETS if target.startswith("annotations[")}
    assert targets
    assert {f"annotations[{key}]" for key in OWN} >= targets
