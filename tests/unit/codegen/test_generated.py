"""generated/ is what spec/ generates, and a change of one entry changes one place."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest

from codegen import generate, render, write
from codegen.errors import Problems, SpecError
from tests.unit.codegen.project import ROOT, api, copy_of_spec, project, settings

_RESOURCES = "spec/mapping/linux_container_resources.yaml"


def test_generated_is_up_to_date_and_deterministic() -> None:
    outputs = generate.outputs(project())
    stale = [f"{c.verb} {c.path}" for c in write.changes(ROOT / "generated", outputs)]
    assert stale == [], "run: cri-codegen generate"
    assert generate.outputs(project()) == outputs


def test_every_template_has_an_output() -> None:
    made = (ROOT / "generated").rglob("*.py")
    headers = {
        line.removeprefix("#   template: codegen/templates/")
        for path in made
        for line in path.read_text().splitlines()[:3]
        if line.startswith("#   template: ")
    }
    templates = {name for name in render.template_names() if name.endswith(".py.j2")}
    assert templates == headers


def test_an_entry_that_is_deleted_is_missed_by_name(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / _RESOURCES
    text = path.read_text()
    start = text.index("  cpu_quota:\n")
    path.write_text(text[:start] + text[text.index("\n\n", start) + 2 :])
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    assert [error.rule for error in raised.value.faults] == ["field-without-fate"]
    assert "LinuxContainerResources.cpu_quota" in str(raised.value)
    assert _RESOURCES in str(raised.value)


def test_an_entry_that_changes_changes_one_block(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / _RESOURCES
    text = path.read_text()
    entry = "    copy: linux.resources.cpu.quota\n"
    assert entry in text
    path.write_text(text.replace(entry, "    copy: linux.resources.cpu.realtimeRuntime\n"))
    before, after = _builders(ROOT), _builders(tmp_path)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["oci/linux_container_resources.py"]
    assert before.keys() == after.keys()
    one, other = (files[changed[0]].splitlines() for files in (before, after))
    hunks = difflib.SequenceMatcher(None, one, other).get_grouped_opcodes(1)
    assert len(list(hunks)) == 1


def _builders(root: Path) -> dict[str, str]:
    problems = Problems()
    found = generate.translation(root, api(), project().rpcs, problems)
    problems.stop_if_any()
    assert found is not None
    template = "%document/%message.py.j2"
    jobs = generate.jobs(found)[template]
    variables = {"settings": settings()}
    return render.render_template(template, jobs, variables, generate.words(settings()))


def test_an_invalid_default_spec_is_refused_with_its_line(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / "spec/oci/default_container.json"
    path.write_text('{\n  "ociVersion": "1.2.0",\n  "mounts": "none"\n}\n')
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    assert [str(error) for error in raised.value.faults] == [
        "spec/oci/default_container.json:3:13: mounts must be of type array"
    ]


def test_attributes_name_files_that_exist() -> None:
    lines = (ROOT / ".gitattributes").read_text().splitlines()
    patterns = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert patterns
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []


def test_a_new_cri_version_requires_entries_for_the_new_fields_only(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    text = (tmp_path / f"spec/cri/{api().version}.proto").read_text()
    new = text.replace("message ImageSpec {", "message ImageSpec {\n    string newest = 99;")
    (tmp_path / "spec/cri/9.99.proto").write_text(new)
    (tmp_path / "spec/cri/current").write_text("9.99\n")
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    [error] = raised.value.faults
    assert error.message == "ImageSpec.newest (str, since 9.99) has no fate"
    (tmp_path / "spec/cri/current").write_text("8.88\n")
    with pytest.raises(SpecError, match=r"names version '8\.88'"):
        generate.load_project(tmp_path)


def test_what_is_decided_is_reached_by_a_served_rpc(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    rpcs = tmp_path / "spec/rpc.yaml"
    before, _, after = rpcs.read_text().partition("CheckpointContainer:\n")
    rest = after[after.index("\n\n") :]
    rpcs.write_text(f"{before}CheckpointContainer:\n  unserved: {{issue: X}}\n  why: A test.{rest}")
    plans = tmp_path / "spec/plan/requests.schema.json"
    document = json.loads(plans.read_text())
    del document["$defs"]["checkpoint_container"]
    plans.write_text(json.dumps(document))
    later = "{unmapped: not-yet, issue: X, why: A test.}"
    path = tmp_path / "spec/mapping/checkpoint_container_request.yaml"
    path.write_text(
        "message: runtime.v1.CheckpointContainerRequest\nflow: in\nfields:\n"
        f"  container_id: {later}\n  timeout: {later}\n"
        "  location: {copy: hostname, why: Of an RPC that is not served.}\n"
    )
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    assert [fault.message for fault in raised.value.faults] == [
        "location is decided, but no served RPC reaches CheckpointContainerRequest"
    ]


def test_the_plan_of_a_request_depends_on_the_request_only(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / "spec/mapping/stop_container_request.yaml"
    computed = "compute: plan.grace\n    by: status.value_or_zero\n    from: [timeout as value]"
    text = path.read_text()
    assert "copy: plan.grace" in text
    path.write_text(text.replace("copy: plan.grace", computed))
    generate.load_project(tmp_path)
    path.write_text(
        text.replace("copy: plan.grace", "unmapped: informational")
        + "\ntargets:\n  plan.grace: {copy: container.status.exit_code, why: Of a stored record.}\n"
    )
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    assert [fault.message for fault in raised.value.faults] == [
        "plan.grace is made of container.status.exit_code, which the handler of a "
        "StopContainerRequest does not know"
    ]
