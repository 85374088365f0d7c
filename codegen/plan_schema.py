"""spec/plan: the typed facts that hand-written steps are given instead of a CRI config."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from codegen import load
from codegen.errors import Problems, nearest
from codegen.model import Api, Plan
from codegen.oci_schema import ObjectReader

FOLDER = "spec/plan"
_SUFFIX = ".schema.json"


def read_all(root: Path, api: Api, problems: Problems) -> dict[str, Plan]:
    """Every plan by name; a property belongs to one plan only, as a target names no plan."""
    plans: dict[str, Plan] = {}
    owners: dict[str, str] = {}
    for path in sorted((root / FOLDER).glob(f"*{_SUFFIX}")):
        file = f"{FOLDER}/{path.name}"
        plan = problems.attempt(partial(_read, root, file, api, problems))
        if plan is None:
            continue
        plans[plan.name] = plan
        for name in plan.fields:
            if name in owners:
                problems.add(
                    f"{name} is a property of {owners[name]} too",
                    plan.places[name],
                    "rename one of them",
                )
            owners[name] = file
    return plans


def _read(root: Path, file: str, api: Api, problems: Problems) -> Plan:
    load.schema_file(root, file)
    body, node = load.json_file(root, file), load.yaml_file(root, file)
    name = Path(file).name.removesuffix(_SUFFIX)
    message = body.get("x-message", "")
    if message not in api.messages:
        problems.add(
            f"x-message names {message!r}, which is no message of the CRI",
            load.at(node, ["x-message"]).place,
            nearest(str(message), api.messages),
        )
    body.setdefault("properties", {})
    reader = ObjectReader(name, body, {}, node, problems)
    fields = {field.name: field for field in reader.fields(demands=False)}
    places = {field: load.at(node, ["properties", field]).place for field in fields}
    return Plan(name, message, body.get("description", ""), fields, places)
