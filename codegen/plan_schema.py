"""spec/plan: the typed values that hand-written steps get instead of a config or request."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from codegen import load, schema_keywords
from codegen.document_schema import ObjectReader
from codegen.errors import Problems, nearest
from codegen.load import Node
from codegen.model import Api, Kind, Plan

FOLDER = "spec/plan"
_SUFFIX = ".schema.json"


def read_all(root: Path, api: Api, records: Collection[str], problems: Problems) -> dict[str, Plan]:
    """Every plan by name. A file is one plan, or has several under ``$defs``.

    A target does not name a plan: an entry fills the property of every plan whose message leads to
    it. Therefore a property of two plans has the same type in both.

    ``records`` are the classes of facts.py.
    """
    plans: dict[str, Plan] = {}
    kinds: dict[str, tuple[Kind, str]] = {}
    for path in sorted((root / FOLDER).glob(f"*{_SUFFIX}")):
        file = f"{FOLDER}/{path.name}"
        for plan in problems.attempt(partial(_read_file, root, file, api, records, problems)) or ():
            if plan.name in plans:
                problems.add(
                    f"there is a plan {plan.name} in another file", plan.place, "rename one"
                )
            plans[plan.name] = plan
            for name, field in plan.fields.items():
                kind, owner = kinds.setdefault(name, (field.kind, plan.name))
                if kind != field.kind:
                    problems.add(
                        f"{name} is {field.kind} here, but {kind} in the plan {owner}",
                        plan.places[name],
                        "rename one of them",
                    )
    return plans


def _read_file(
    root: Path, file: str, api: Api, records: Collection[str], problems: Problems
) -> list[Plan]:
    body = load.json_file(root, file)
    several = "$defs" in body
    told, use = Problems(), schema_keywords.PLANS if several else schema_keywords.PLAN
    schema_keywords.read(root, file, use, told)
    problems.extend(told)
    if told:
        problems = Problems()  # the rest may only follow from it
    node = load.yaml_file(root, file)
    if not several:
        return [_read(Path(file).name.removesuffix(_SUFFIX), body, node, api, records, problems)]
    return [
        _read(name, part, load.at(node, ["$defs", name]), api, records, problems)
        for name, part in body["$defs"].items()
    ]


def _read(
    name: str, given: Any, node: Node, api: Api, records: Collection[str], problems: Problems
) -> Plan:
    body: dict[str, Any] = given if isinstance(given, dict) else {}
    message = str(body.get("x-message", ""))
    if message not in api.messages:
        problems.add(
            f"x-message names {message!r}, which is not a message of the {api.name}",
            load.at(node, ["x-message"]).place,
            api.former.hint(message) or nearest(message, api.messages),
        )
    body.setdefault("properties", {})
    reader = ObjectReader(name, body, {}, node, problems)
    fields = {field.name: field for field in reader.fields(demands=False)}
    places = {field: load.at(node, ["properties", field]).place for field in fields}
    for field in fields.values():
        if field.kind.name == "message" and field.kind.ref not in api.messages:
            problems.add(
                f"the {api.name} has no message {field.kind.ref}",
                places[field.name],
                api.former.hint(field.kind.ref) or nearest(field.kind.ref, api.messages),
            )
        record = field.kind.of[0] if field.kind.name == "list" else field.kind
        if record.name == "record" and record.ref not in records:
            problems.add(
                f"facts.py has no class {record.ref}",
                places[field.name],
                nearest(record.ref, records),
            )
    for key in (name, *fields):
        if not key.isidentifier() or key == "self":
            problems.add(
                f"{key} cannot be a Python name",
                places.get(key, node.place),
                "use letters, digits and _",
                "no-python-name",
            )
    return Plan(name, message, body.get("description", ""), fields, places, node.place)
