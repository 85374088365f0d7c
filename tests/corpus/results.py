"""What the builders make of each request: the OCI spec, containerd's record, what CNI plugins are
told, and the plans.

``python -m tests.corpus.results`` prints ``{request: {target: value}}`` as JSON. A refusal is the
only target of its request.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseError
from google.protobuf.message import Message

from generated import cni, plans
from runtime.errors import CriError
from tests import oci_specs
from tests.corpus.requests import Request, read

Values = dict[str, Any]

_OF_NO_REQUEST = ("plan_restored_container",)
"""What these plan also needs what no request has: a checkpoint."""


def of(request: Request) -> Values:
    """{target: value} of everything that the request sets."""
    try:
        return {path: value for path, value in _values(request) if value not in (None, "", [], {})}
    except CriError as error:
        return {"refused": f"{error.code.name}: {error}"}


def _values(request: Request) -> Iterator[tuple[str, Any]]:
    message: Any = request.message
    _validate(message)
    yield from _plan(message)
    if request.rpc == "RunPodSandbox":
        pod = message.config
        yield from _built(oci_specs.build_pod(pod))
        yield from flat("cni", cni.runtime_config(pod))
        yield from flat("cni.args", cni.arguments(pod))
        yield from _plan(pod, image=oci_specs.PAUSE)
    if request.rpc == "CreateContainer":
        built = oci_specs.build_container(message.config, message.sandbox_config)
        yield from _built(built)
        yield from _plan(
            message.config,
            container=oci_specs.container(message.config),
            image=oci_specs.IMAGE,
            sandbox=oci_specs.sandbox(message.sandbox_config),
        )


def _validate(message: Message) -> None:
    name = type(message).__name__
    module = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    try:
        check = import_module(f"generated.validators.{module}").check
    except ModuleNotFoundError:
        return  # nothing of it can be wrong
    check(message, "")


def _built(built: oci_specs.Built) -> Iterator[tuple[str, Any]]:
    oci_specs.check_schema(built.spec)
    yield from flat("", built.spec.to_dict())
    record = MessageToDict(built.record, preserving_proto_field_name=True)
    yield from flat("Container", record)


def _plan(message: Message, **context: Any) -> Iterator[tuple[str, Any]]:
    """The values of every plan that is made from this message."""
    context = {"host": oci_specs.HOST, **context}
    for function in _planners():
        parameters = inspect.signature(function).parameters
        if parameters["src"].annotation.rpartition(".")[2] == type(message).__name__:
            wanted = {name: context[name] for name in parameters if name != "src"}
            plan: Any = function(message, **wanted)
            fields = {f.name: getattr(plan, f.name) for f in dataclasses.fields(plan)}
            yield from flat("plan", fields)


def _planners() -> list[Callable[..., Any]]:
    return [
        function
        for name, function in vars(plans).items()
        if name.startswith("plan_") and name not in _OF_NO_REQUEST
    ]


def flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every scalar below ``value`` with its path; lists of scalars as a whole, messages not."""
    if isinstance(value, Message):
        return  # a plan passes it on whole
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(
                f"{path}[{key}]" if _is_free(key) else f"{path}.{key}".lstrip("."), inner
            )
    elif isinstance(value, list | tuple) and value and not _is_scalar(value[0]):
        for number, inner in enumerate(value):
            yield from flat(f"{path}[{_identity(inner, number)}]", inner)
    elif isinstance(value, list | tuple):
        yield path, [one if _is_scalar(one) else str(one) for one in value]
    else:
        yield path, value if _is_scalar(value) else str(value)


def _is_free(key: object) -> bool:
    """Whether it is a key of a map, not the name of a property."""
    return not str(key).isidentifier()


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _identity(item: Any, number: int) -> str:
    """What names an item of a list, so that one more item does not move the others."""
    of = item if isinstance(item, Mapping) else {}
    named = "type" if of.keys() <= {"type", "path"} else "path"  # a namespace; a device
    found = (of[key] for key in ("destination", named, "containerID") if key in of)
    return str(next(found, number))


def main() -> None:
    print(json.dumps({request.name: of(request) for request in read()}, indent=1, sort_keys=True))


if __name__ == "__main__":
    try:
        main()
    except ParseError as error:
        sys.exit(f"a request of the corpus is not of this CRI: {error}")
