"""Many mistakes in all files of the specification: each is reported once, in the same run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codegen import generate
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, api, copy_of_spec

_CURRENT = f"spec/cri/{api().version}.proto"
_MISTAKES = (
    # file, old text, new text, what is said, and the hint
    ("spec/mapping/container_config.yaml", "copy: process.terminal", "copy: process.termnal",
     "process has no termnal [unknown-target]", "did you mean terminal?"),
    ("spec/mapping/pod_sandbox_config.yaml", "when: nonempty", "when: set",
     "when: set does not apply to hostname, which is str [when-does-not-fit]",
     "set is for what has presence, nonzero for numbers and booleans, nonempty for strings, "
     "lists and maps"),
    ("spec/mapping/linux_container_resources.yaml", "range: [0, 1000000]", "range: [1000000, 0]",
     "the rule range never holds: no value is 1000000 to 0 [rule-does-not-fit]", ""),
    ("spec/mapping/mount.yaml", "flow: in", "flow: inn", "flow says 'inn'", "did you mean in?"),
    ("spec/mapping/port_mapping.yaml", "rules: [{range: [0, 65535]}]", "rules: [{rnge: 1}]",
     "fields.container_port.rules.0 must be required, absolute_path, ", ""),
    ("spec/mapping/exec_request.yaml", "  cmd:", "  cmdd:",
     "ExecRequest has no field cmdd [unknown-field]", "did you mean cmd?"),
    ("spec/mapping/key_value.yaml", "item: {of: process.env}",
     "item: [{of: process.env}, {of: process.env}]",
     "item must be one item, or several different ones", ""),
    ("spec/mapping/hugepage_limit.yaml", "rules: [required]", "rules: [required, required]",
     "fields.page_size.rules: ['required', 'required'] has non-unique elements", ""),
    ("spec/mapping/auth_config.yaml", "why: ", 'why: " " # ', ".why must say something", ""),
    ("spec/rpc.yaml", "field: pod_sandbox_id, absent: ok", "field: pod_sandboxid, absent: ok",
     "StopPodSandboxRequest has no field pod_sandboxid [unknown-field]",
     "did you mean pod_sandbox_id?"),
    ("spec/rpc.yaml", "log: [timeout", "log: [timeout, timeout",
     "has non-unique elements", ""),
    ("spec/rpc.yaml", "served_by: node.version", "served_by: node.versio",
     "Version is served by node.versio, but the class Node of runtime/node/operations.py has no"
     " method versio [unknown-operation]", "did you mean version?"),
    ("spec/rpc.yaml", "served_by: node.status", "served_by: nod.status",
     "Status is served by nod.status, but runtime/nod/operations.py does not exist"
     " [unknown-operation]", "did you mean node?"),
    ("spec/rpc.yaml", "otherwise: failed_precondition", "otherwise: faild_precondition",
     ".states.otherwise says 'faild_precondition'", "did you mean failed_precondition?"),
    ("spec/rpc.yaml", "\nListImages:", "\nListImage:", "the CRI has no RPC ListImage [unknown-rpc]",
     "did you mean ListImages"),
    ("spec/lifecycle.yaml", "  events:\n",
     "  events:\n    sink: {why: x, transitions: [{from: [READY], to: READY}]}\n",
     "nothing in runtime/ fires sink of the sandbox [event-never-fired]",
     "fire SandboxEvent.SINK, or remove the event"),
    ("spec/lifecycle.yaml", "emits: CONTAINER_STOPPED_EVENT", "emits: CONTAINER_STOPED_EVENT",
     "'CONTAINER_STOPED_EVENT' is not a CRI event [unknown-enum-value]",
     "did you mean CONTAINER_STOPPED_EVENT"),
    ("spec/metrics.yaml", "type: counter", "type: conter", ".type says 'conter'",
     "did you mean counter?"),
    ("spec/older.yaml", "proto: spec", "protoo: spec", "unknown key 'protoo' in runtime.v1alpha2",
     "did you mean proto?"),
    ("spec/cri/1.30.proto", "message Mount {", "message Mount [", 'Expected "{".', ""),
    (_CURRENT, "string image_ref = 20;", "bytes image_ref = 20;",
     "ImageSpec.image_ref has changed since it was decided: string = 20 → bytes = 20"
     " [changed-since-decided]", "change what relies on it (see cri-codegen explain), then run: "
     "cri-codegen decide ImageSpec.image_ref"),
    ("spec/containerd/tasks.proto", "service Tasks {", "service Tasks [", 'Expected "{".', ""),
    ("spec/plan/new_container.schema.json", '"x-message": "ContainerConfig"',
     '"x-message": "ContainerConfg"',
     "x-message names 'ContainerConfg', which is not a message of the CRI",
     "did you mean ContainerConfig"),
    ("spec/plan/new_pod.schema.json", '"type": "object"', '"type": "object", "requird": []',
     "requird is no keyword of a JSON Schema [schema-keyword]", "allowed here: $comment, "),
    ("spec/cni/runtime_config.schema.json", '"maximum": 65535', '"maximun": 65535',
     "maximun of PortMapping.hostPort is no keyword of a JSON Schema [schema-keyword]",
     "did you mean maximum?"),
    ("spec/oci/runtime.schema.json", '"hostname": {',
     '"no-dash": {"type": "string"}, "hostname": {',
     "Spec.no-dash cannot be an attribute of a Python class [no-python-name]",
     "use letters, digits and _"),
    ("spec/oci/seccomp.json", "SCMP_ACT_ERRNO", "SCMP_ACT_ERNO",
     "default_action says 'SCMP_ACT_ERNO'", "did you mean SCMP_ACT_ERRNO"),
    ("spec/oci/seccomp.json", '"rules": [', '"rulez": [], "rules": [',
     "unknown key 'rulez' in the file", "did you mean rules?"),
    ("spec/oci/default_container.json", '"process": {', '"process": {"termnal": true, ',
     "Process has no key 'termnal' [unknown-key]", "did you mean terminal?"),
    ("runtime/transforms/images.py", "runtime_handler: str", "runtime_handler",
     "images.handler has no annotation for runtime_handler [transform-arguments]",
     "annotate it, so that the entries that call it can be checked"),
)  # fmt: skip


def test_every_mistake_is_reported_once_with_place_and_remedy(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    (tmp_path / "runtime").unlink()
    shutil.copytree(ROOT / "runtime", tmp_path / "runtime")
    for file, old, new, *_ in _MISTAKES:
        text = (tmp_path / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (tmp_path / file).write_text(text.replace(old, new, 1))
    (tmp_path / "spec/mapping/mounts.yml").write_text("")
    (tmp_path / "spec/mapping/more").symlink_to("..")
    (tmp_path / "runtime/transforms/more").symlink_to("..")
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    faults = list(raised.value.faults)
    expected = [
        *_MISTAKES,
        ("spec/mapping/mounts.yml", "", "", "has a name that nothing reads [stray-file]",
         "call it MESSAGE.yaml"),
        ("spec/mapping/more", "", "", "is a link, which a review does not show [stray-file]", ""),
        ("runtime/transforms/more", "", "",
         "is a link to a folder, which is not followed [linked-folder]", "move the folder itself"),
    ]  # fmt: skip
    for file, _, _, said, hint in expected:
        found = [
            f
            for f in faults
            if said in str(f).splitlines()[0] and f.place.file == (_place_of(file))
        ]
        assert len(found) == 1, f"{said}: {found}"
        assert hint in found[0].hint, found[0]
        assert (found[0].place.line and found[0].place.column) or file.endswith(("more", ".yml"))
        faults.remove(found[0])
    assert faults == [], "nothing is told that is only a consequence"


@pytest.mark.parametrize("lost", [["requests"], ["sandbox", "new_container"]])
def test_a_lost_file_with_plans_is_told_and_not_the_entries_that_write_into_it(
    tmp_path: Path, lost: list[str]
) -> None:
    copy_of_spec(tmp_path)
    (tmp_path / "generated").mkdir()
    shutil.copy(ROOT / "generated" / generate.MANIFEST, tmp_path / "generated")
    for name in lost:
        (tmp_path / f"spec/plan/{name}.schema.json").unlink()
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    assert [str(fault).splitlines()[0] for fault in raised.value.faults] == [
        f"spec/plan/{name}.schema.json: is missing, and entries write into its plans"
        " [plan-file-missing]"
        for name in sorted(lost)
    ]


def test_an_rpc_that_the_api_lost_is_told_at_its_entry_and_no_handler_is(
    tmp_path: Path,
) -> None:
    copy_of_spec(tmp_path)
    proto = tmp_path / _CURRENT
    lines = proto.read_text().splitlines()
    proto.write_text("\n".join(line for line in lines if "rpc StopContainer(" not in line))
    with pytest.raises(SpecError) as raised:
        generate.load_project(tmp_path)
    faults = [str(fault).splitlines()[0] for fault in raised.value.faults]
    (entry,) = [fault for fault in faults if fault.startswith("spec/rpc.yaml")]
    assert entry.endswith("the CRI has no RPC StopContainer [unknown-rpc]")
    # its own request is still there; that no RPC takes it is not a mistake of the handler's name
    assert [fault for fault in faults if "unknown-handler" in fault] == []


def _place_of(file: str) -> str:
    """Where a mistake in ``file`` is reported: what the CRI changed, at the entry."""
    return "spec/mapping/image_spec.yaml" if file == _CURRENT else file
