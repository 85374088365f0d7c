"""Runs the examples of one golden case inside the case's own project; started by ``case.answers``.

Each example names a generated function in ``call`` (``oci.box``, ``statuses.box``, ``items.box`` or
``validators.box``), gives the message in ``message`` (JSON as protobuf reads it), what the OCI spec
has already in ``before``, and the context roots in ``roots`` (``{host: {class: Host, …fields}}``).
It says what comes out: the OCI spec in ``oci``, containerd's record in ``record``, the message in
``answer``, the violations as lines, the items that
the message becomes in ``items``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from typing import Any

from google.protobuf import json_format


def main() -> None:
    sys.path[0] = ""  # this folder's own modules must not shadow the case's
    examples = json.load(sys.stdin)
    json.dump([_answer(example) for example in examples], sys.stdout)


def _answer(example: dict[str, Any]) -> dict[str, Any]:
    api = importlib.import_module("generated.cri.api_pb2")
    kind, _, function = example["call"].partition(".")
    module = importlib.import_module(
        f"generated.{kind}" if kind in ("plans", "cni") else f"generated.{kind}.{function}"
    )
    roots = {name: _root(fields) for name, fields in example.get("roots", {}).items()}
    words = example.get("of") or function
    name = "".join(part.capitalize() for part in words.split("_"))
    message = json_format.ParseDict(
        example.get("message", {}), getattr(api, name)(), ignore_unknown_fields=False
    )
    types = importlib.import_module("generated.oci.types")
    match example["call"].partition(".")[0]:
        case "validators":
            return {"violations": [f"{v} [{v.rule}]" for v in module.check(message)]}
        case "plans":
            made = getattr(module, example["call"].partition(".")[2])
            return {"plan": dataclasses.asdict(made(message, **roots))}
        case "cni":
            return {"told": getattr(module, function)(message)}
        case "items" if hasattr(module, "items"):
            return {"items": [_plain(item) for item in module.items([message], **roots)]}
        case "items":
            return {"items": [_plain(module.item(message, **roots))]}
        case "filters":
            item = json_format.ParseDict(example["item"], _item_of(module)())
            return {"passes": bool(module.selected(message, [item]))}
        case "statuses":
            if "spec" in roots:
                roots["spec"] = types.Spec.from_dict(roots["spec"])
            answer = json_format.MessageToDict(
                module.read(**roots), preserving_proto_field_name=True
            )
            return {"answer": answer}
    spec = types.Spec.from_dict(example.get("before", {}))
    if "record" not in example:
        module.apply(message, spec, **roots)
        return {"oci": spec.to_dict()}
    containers = importlib.import_module("generated.containerd.containers_pb2")
    record = containers.Container()
    module.apply(message, spec, record=record, **roots)
    return {"record": json_format.MessageToDict(record)}


def _plain(item: Any) -> Any:
    return item if isinstance(item, dict) else item.to_dict()


def _item_of(module: Any) -> Any:
    """The message that a filter is compared with."""
    api = importlib.import_module("generated.cri.api_pb2")
    listed = module.selected.__annotations__["items"]
    return getattr(api, listed.removeprefix("Sequence[api_pb2.").removesuffix("]"))


def _root(fields: Any) -> Any:
    """A record of facts.py, and those inside it; anything else as it is."""
    if isinstance(fields, list):
        return tuple(map(_root, fields))
    if not isinstance(fields, dict) or "class" not in fields:
        return fields
    facts = importlib.import_module("runtime.transforms.facts")
    given = {name: _root(value) for name, value in fields.items() if name != "class"}
    return getattr(facts, fields["class"])(**given)


if __name__ == "__main__":
    main()
