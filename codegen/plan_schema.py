"""spec/plan: the typed facts that hand-written steps are given instead of a CRI config."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from codegen import load
from codegen.errors import Problems, nearest
from codegen.model import Api, Kind, Plan
from codegen.oci_schema import ObjectReader

FOLDER = "spec/plan"
_SUFFIX = ".schema.json"


def read_all(root: Path, api: Api, records: Collection[str], problems: Problems) -> dict[str, Plan]:
    """Every plan by name. A target names no plan, so a property of several plans has one type.

    ``records`` are the classes of runtime/transforms/facts.py.
    """
    plans: dict[str, Plan] = {}
    owners: dict[str, tuple[str, Kind]] = {}
    for path in sorted((root / FOLDER).glob(f"*{_SUFFIX}")):
        file = f"{FOLDER}/{path.name}"
        plan = problems.attempt(partial(_read, root, file, api, records, problems))
        if plan is None:
            continue
        plans[plan.name] = plan
        for name, field in plan.fields.items():
            owner, kind = owners.setdefault(name, (file, field.kind))
            if kind != field.kind:
                problems.add(
                    f"{name} is {field.kind} here, but {kind} in {owner}",
                    plan.places[name],
                    "rename one of them",
                )
    return plans


def _read(root: Path, file: str, api: Api, records: Collection[str], problems: Problems) -> Plan:
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
    for field in fields.values():
        record = field.kind.of[0] if field.kind.name == "list" else field.kind
        if record.name == "record" and record.ref not in records:
            problems.add(
                f"runtime/transforms/facts.py has no class {record.ref}",
                places[field.name],
                nearest(record.ref, records),
            )
    return Plan(name, message, body.get("description", ""), fields, places)
