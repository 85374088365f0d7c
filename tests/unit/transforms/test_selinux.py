"""SELinux labels: what a request overrides, what a container inherits, what a policy lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms import selinux
from runtime.transforms.facts import LabelParts, SelinuxLabels, SelinuxPolicy
from tests import oci_specs

POLICY = SelinuxPolicy(
    process="system_u:system_r:container_t:s0",
    file="system_u:object_r:container_file_t:s0",
    kvm_process="system_u:system_r:container_kvm_t:s0",
)
FREE = "s0:c1,c2"
POD = "system_u:system_r:container_t:s0:c7,c8"


def test_the_policys_contexts_file() -> None:
    text = (
        "# labels of containers\n"
        'process = "system_u:system_r:container_t:s0"\n'
        'file="system_u:object_r:container_file_t:s0"\n'
        'ro_file = "system_u:object_r:container_ro_file_t:s0"\n'
        "\n"
        '#kvm_process = "x"\n'
    )
    assert selinux.policy(text) == replace(POLICY, kvm_process=POLICY.process)
    both = text + "kvm_process = system_u:system_r:container_kvm_t:s0\n"
    assert selinux.policy(both) == POLICY
    assert selinux.policy("") == SelinuxPolicy()


@pytest.mark.parametrize(
    ("options", "process", "mount"),
    [
        (
            {},
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        (
            {"type": "spc_t"},
            "system_u:system_r:spc_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2",
        ),
        (
            {"level": "s0:c3"},
            "system_u:system_r:container_t:s0:c3",
            "system_u:object_r:container_file_t:s0:c3",
        ),
        (
            {"user": "u", "role": "r"},
            "u:r:container_t:s0:c1,c2",
            "u:object_r:container_file_t:s0:c1,c2",
        ),
    ],
)
def test_options_replace_parts_of_the_policys_labels(
    options: dict[str, str], process: str, mount: str
) -> None:
    found = selinux.labels(LabelParts(**options), of=POLICY, free_level=FREE)
    assert found == SelinuxLabels(process, mount)


def test_a_policy_without_levels_has_none() -> None:
    policy = SelinuxPolicy(process="u:r:container_t", file="u:object_r:container_file_t")
    found = selinux.labels(LabelParts(), of=policy, free_level=FREE)
    assert found == SelinuxLabels("u:r:container_t", "u:object_r:container_file_t")


def test_a_policy_without_a_process_label_labels_nothing() -> None:
    policy = SelinuxPolicy(file=POLICY.file)
    assert selinux.labels(LabelParts(type="x"), of=policy, free_level=FREE) == SelinuxLabels()


def test_a_container_without_options_has_the_label_of_its_pod() -> None:
    parts = selinux.inherited(LabelParts(), POD)
    found = selinux.labels(parts, of=POLICY, free_level=FREE)
    assert found.process == POD
    assert found.mount == "system_u:object_r:container_file_t:s0:c7,c8"
    own = LabelParts(type="other_t")
    assert selinux.inherited(own, POD) == own
    assert selinux.inherited(LabelParts(), "") == LabelParts()


def requested(**parts: str) -> LabelParts:
    return selinux.requested(**({"user": "", "role": "", "type": "", "level": ""} | parts))


@pytest.mark.parametrize(
    "level", ["s0", "s1:c5", "s0-s0:c0.c1023", "s0:c1,c2", "s0:c1.c3,c5,c7.c9", "s0-s3"]
)
def test_a_level(level: str) -> None:
    assert requested(level=level) == LabelParts(level=level)


@pytest.mark.parametrize("level", ["c1", "s", "s0:", "s0:c1,", "s0:c12345", "S0", "s0\n", "s0:x"])
def test_an_invalid_level_is_refused_with_its_field(level: str) -> None:
    with pytest.raises(InvalidArgument, match=r"security_context\.selinux_options\.level: must be"):
        requested(level=level)


@pytest.mark.parametrize("name", ["user", "role", "type"])
@pytest.mark.parametrize("part", ["a:b", "a b", "a\n"])
def test_a_part_cannot_change_the_other_parts(name: str, part: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"selinux_options\.{name}: must not have a colon"):
        requested(**{name: part})


@pytest.mark.parametrize(
    ("privileged", "runtime_type", "policy", "expected"),
    [
        (False, "io.containerd.runc.v2", POLICY, POD),
        (True, "io.containerd.runc.v2", POLICY, None),
        (False, "io.containerd.runc.v2", None, None),
        (False, "io.containerd.kata.v2", POLICY, "system_u:system_r:container_kvm_t:s0:c7,c8"),
        (False, "io.containerd.kata.v2", replace(POLICY, kvm_process=""), POD),
    ],
)
def test_the_label_of_the_process(
    privileged: bool, runtime_type: str, policy: SelinuxPolicy | None, expected: str | None
) -> None:
    found = selinux.process_label(
        label=POD, privileged=privileged, runtime_type=runtime_type, policy=policy
    )
    assert found == expected


def test_labels_reach_the_oci_spec_of_pods_and_containers() -> None:
    host = replace(oci_specs.HOST, selinux=POLICY)
    pod = oci_specs.build_pod(
        api_pb2.PodSandboxConfig(), host=host, process_label=POD, mount_label="u:o:f:s0"
    ).spec
    container = oci_specs.build_container(
        api_pb2.ContainerConfig(), host=host, process_label=POD, mount_label="u:o:f:s0"
    ).spec
    for spec in (pod, container):
        assert (spec.process.selinuxLabel, spec.linux.mountLabel) == (POD, "u:o:f:s0")


def test_without_selinux_a_spec_has_no_labels() -> None:
    spec = oci_specs.build_container(api_pb2.ContainerConfig()).spec
    assert "selinuxLabel" not in spec.process.to_dict()
    assert "mountLabel" not in spec.linux.to_dict()
