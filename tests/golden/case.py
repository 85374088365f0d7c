"""One golden case: a tiny specification, laid out as a project of its own, and what comes of it.

A case file has the keys

``why``         why the case exists, in a sentence;
``proto``       messages of the CRI (services and enums too), without the head of the file;
``older``       the same in the version before, optional;
``mapping``     {file name: text} below spec/mapping;
``transforms``  {file name: text} below runtime/transforms, optional;
``runtime``     {file name: text} below runtime, optional;
``plan``        {file name: text} below spec/plan, optional;
``spec``        {file name: text} directly below spec, such as rpc.yaml, optional;
``examples``    calls of the generated functions and what they answer, optional;
``python``      {path below generated/: text without its header}, or
``error``       what the generator says instead.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codegen import (
    decided,
    document_schema,
    generate,
    lifecycle,
    plan,
    plan_schema,
    project,
    protoc,
    render,
    rpc,
    strays,
)
from codegen.emit import plans, types
from codegen.errors import Problems, SpecError
from codegen.rpc import Rpcs

CASES = Path(__file__).parent / "cases"
_ROOT = Path(__file__).parents[2]
_HEAD = 'syntax = "proto3";\n\npackage runtime.v1;\n\n'
_HEADER_LINES = 3
_SETTINGS = project.read(_ROOT)


@dataclass(frozen=True, slots=True)
class Case:
    """One file of ``cases/``."""

    name: str
    data: dict[str, Any]

    @property
    def python(self) -> dict[str, str]:
        return self.data.get("python") or {}

    @property
    def error(self) -> str | None:
        return self.data.get("error")

    @property
    def examples(self) -> list[dict[str, Any]]:
        return self.data.get("examples") or []


def load(path: Path) -> Case:
    """The case in a file."""
    return Case(path.stem, yaml.safe_load(path.read_text()))


def all_cases() -> list[Case]:
    """Every case, by name."""
    return [load(path) for path in sorted(CASES.glob("*.yaml"))]


def lay_out(case: Case, root: Path) -> None:
    """Make ``root`` a project with the case's specification and our schemas."""
    spec = root / "spec"
    (spec / "cri").mkdir(parents=True)
    (spec / "cri/current").write_text("1.0\n")
    (spec / "cri/1.0.proto").write_text(_HEAD + case.data["proto"])
    if "older" in case.data:
        (spec / "cri/0.9.proto").write_text(_HEAD + case.data["older"])
    for name in ("cni", "oci", "containerd", "project.yaml"):
        if name not in case.data:
            copy = shutil.copy if "." in name else shutil.copytree
            copy(_ROOT / "spec" / name, spec / name)
    for folder, key in (
        ("spec/mapping", "mapping"),
        ("runtime/transforms", "transforms"),
        ("runtime", "runtime"),
        ("spec/plan", "plan"),
        ("spec/cni", "cni"),
        ("spec", "spec"),
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, text in case.data.get(key, {}).items():
            (root / folder / name).parent.mkdir(exist_ok=True)
            (root / folder / name).write_text(text)


def outcome(root: Path) -> tuple[dict[str, str], str | None]:
    """What the generator makes of a laid out case: the files with their headers, or the error."""
    problems = Problems()
    try:
        api = generate.read_api(root)
        enums = {name: enum.values for name, enum in api.enums.items()}
        machines, rpcs = None, Rpcs(())
        if (root / lifecycle.FILE).exists():
            machines = problems.attempt(lambda: lifecycle.read(root, enums, problems, api.former))
        if (root / rpc.FILE).exists():
            rpcs = problems.attempt(lambda: rpc.read(root, api, machines, problems)) or Rpcs(())
        found = generate.translation(root, api, rpcs, problems)
        strays.check(root, project.read(root), problems)
        if found is not None:
            generate.check_served(found.paths.sources, rpcs, machines, problems)
        if (root / decided.FILE).exists() and found is not None:
            generate.check_decided(root, found.files, problems, api.former)
        problems.stop_if_any()
        assert found is not None
    except SpecError as errors:
        return {}, f"{errors}\n"
    files: dict[str, str] = {}
    variables: dict[str, Any] = {"settings": _SETTINGS}
    for template, jobs in generate.jobs(found).items():
        files |= render.render_template(template, jobs, variables, generate.words(_SETTINGS))
    planned = plan.plans(found.mapped, found.plans, _SETTINGS)
    if planned:
        variables |= {
            "plans": [plans.text(p) for p in planned],
            "plan_imports": plans.all_imports(planned),
        }
        files |= render.render_template(
            "plans.py.j2", [render.Job({}, {}, plan_schema.FOLDER)], variables, {}
        )
    return files, None


def without_header(text: str) -> str:
    """A generated file without the lines that name its sources."""
    return "".join(text.splitlines(keepends=True)[_HEADER_LINES:])


def answers(case: Case, root: Path, files: dict[str, str]) -> list[Any]:
    """What the generated functions answer to the case's examples, in a process of its own: their
    packages have the names of the real ones."""
    generated = root / "generated"
    stubs = protoc.python_modules({"cri/api.proto": _HEAD + case.data["proto"]}, grpc=[])
    for name, text in {**_same_for_all(), **stubs, **files}.items():
        (generated / name).parent.mkdir(parents=True, exist_ok=True)
        (generated / name).write_text(text)
    for name in ("errors.py", "transforms/lists.py"):
        shutil.copy(_ROOT / "runtime" / name, root / "runtime" / name)
    made = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "run_examples.py")],
        cwd=root,
        env={"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        input=json.dumps(case.examples),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    answered: list[Any] = json.loads(made.stdout)
    return answered


@functools.cache
def _same_for_all() -> dict[str, str]:
    """The generated files that no case changes: OCI types and containerd's container record."""
    record = (_ROOT / "spec/containerd/containers.proto").read_text()
    job = render.Job({}, {}, _SETTINGS.document.schema)
    classes = types.text(document_schema.read(_ROOT, Problems()))
    return protoc.python_modules(
        {"containerd/containers.proto": record}, grpc=[]
    ) | render.render_template(
        "%document/types.py.j2",
        [job],
        {"classes": classes, "settings": _SETTINGS},
        generate.words(_SETTINGS),
    )
