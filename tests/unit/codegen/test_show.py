"""explain and review: all about one field, and all fields on one page."""

from __future__ import annotations

import re

import pytest

from codegen import show, show_rpc
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, api, project


@pytest.mark.parametrize(
    "path",
    [
        "cpu_quota",
        "LinuxContainerResources.cpu_quota",
        "ContainerConfig.linux.resources.cpu_quota",
    ],
)
def test_explain_finds_a_field_by_each_of_its_names(path: str) -> None:
    told = show.explain(project().translation, path)
    assert told.startswith("LinuxContainerResources.cpu_quota\n")
    for part in (
        "int64, number 2, since CRI 1.25",
        "copy linux.resources.cpu.quota when nonzero",
        "spec/mapping/linux_container_resources.yaml:",
        "generated/oci/linux_container_resources.py",
    ):
        assert part in told


def test_explain_marks_fields_that_are_never_logged() -> None:
    assert "never logged" in show.explain(project().translation, "AuthConfig.password")


def test_explain_refuses_with_the_nearest_name() -> None:
    with pytest.raises(SpecError) as raised:
        show.explain(project().translation, "ContainerConfig.imag")
    assert raised.value.faults[0].hint is not None
    assert "ContainerConfig.image" in raised.value.faults[0].hint


def test_review_has_every_field() -> None:
    lines = show.review(project().translation).splitlines()
    fields = sum(len(message.fields) for message in api().messages.values())
    assert lines[0] == f"{fields} fields in {len(api().messages)} messages, CRI {api().version}"
    listed = [line for line in lines if line.startswith("  ") and ": " in line]
    assert len(listed) >= fields


def test_explain_shows_what_else_a_field_is_read_for() -> None:
    said = show.explain(project().translation, "LinuxPodSandboxConfig.sysctls")
    assert "also for   plan.network_first\n" in said
    assert "generated/plans.py" in said


def test_explain_shows_what_other_messages_read_a_field_for() -> None:
    said = " ".join(show.explain(project().translation, "NamespaceOption.pid").split())
    assert "fate compute linux.namespaces by namespaces.pid_of_pod" in said
    assert "also for linux.namespaces (LinuxContainerSecurityContext)," in said
    assert "plan.untrusted (PodSandboxConfig)," in said


def test_an_input_of_an_outer_message_counts_only_below_that_message() -> None:
    said = show.explain(project().translation, "process.oomScoreAdj")
    assert "written by ContainerConfig.linux.resources.oom_score_adj: " in said
    assert "UpdateContainerResourcesRequest" not in said


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "plan.grace",
            ["StopContainerPlan.grace, int: ", "written by StopContainerRequest.timeout: "],
        ),
        (
            "linux.resources.cpu.quota",
            ["written by ContainerConfig.linux.resources.cpu_quota: copy "],
        ),
        (
            "cni.portMappings",
            [
                "cni.portMappings[].hostPort",
                "written by PodSandboxConfig.port_mappings.host_port: ",
            ],
        ),
        ("usage.layer", ["read for   ContainerStats.writable_layer: copy fields"]),
        ("resources.swap_limit", ["called for LinuxContainerResources.memory_swap_limit_in_bytes"]),
        ("plan.pod_config", ["RunPodSandboxPlan.pod_config, PodSandboxConfig: "]),
    ],
)
def test_explain_goes_from_targets_sources_and_functions_to_fields(
    name: str, parts: list[str]
) -> None:
    said = show.explain(project().translation, name)
    assert said.startswith(name)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("", "has no field '', and", "write Message.field, as in VersionRequest.version"),
        ("image\n", "has no field 'image\\n', and", "did you mean image"),
        ("x" * 999, f"has no field {'x' * 50} … {'x' * 50}, and", "write Message.field"),
    ],
)
def test_explain_shows_an_odd_name_in_quotes_and_a_long_one_in_short(
    name: str, said: str, hint: str
) -> None:
    with pytest.raises(SpecError) as raised:
        show.explain(project().translation, name)
    [fault] = raised.value.faults
    assert said in fault.message
    assert fault.hint.startswith(hint)


def test_explain_knows_the_nearest_target() -> None:
    with pytest.raises(SpecError) as raised:
        show.explain(project().translation, "linux.resources.cpu.quotta")
    hint = raised.value.faults[0].hint or ""
    assert hint.startswith("did you mean linux.resources.cpu.quota ")


def test_explain_lists_the_fields_of_a_message() -> None:
    lines = show.explain(project().translation, "StopContainerRequest").splitlines()
    assert lines[0] == "StopContainerRequest (in, spec/mapping/stop_container_request.yaml)"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == ["container_id", "timeout"]


def test_explain_leads_from_an_rpc_to_its_code() -> None:
    found = project()
    told = show_rpc.explained(ROOT, found.translation.settings, found.rpcs, "StopContainer")
    assert told is not None
    for part in (
        "RuntimeService, StopContainerRequest → StopContainerResponse, since 1.25",
        "served by  containers.stop\n",
        "runtime/containers/stop.py",
        "container, by container_id; an empty response if it does not exist",
        "RUNNING, UNKNOWN; ok in others",
        "spec/rpc.yaml:",
    ):
        assert part in told


def test_explain_leads_from_every_rpc_to_existing_files() -> None:
    found = project()
    for rpc in found.rpcs.all:
        told = show_rpc.explained(ROOT, found.translation.settings, found.rpcs, rpc.name) or ""
        files = re.findall(r"runtime/[\w/]+\.py", told)
        assert files or rpc.operation is None, rpc.name
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_explain_knows_no_other_rpcs() -> None:
    found = project()
    assert show_rpc.explained(ROOT, found.translation.settings, found.rpcs, "Nothing") is None
