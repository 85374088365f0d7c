"""Every answer, made of records in which each value says where it is: ``answers.yaml`` shows what
each field of an answer comes from."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from typing import Any

import pytest
from google.protobuf import json_format

from generated import statuses
from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.oci import types
from runtime.transforms import facts

from .expected import expect, names
from .filled import Made

_RESPONSES = sorted(
    module.name
    for module in pkgutil.iter_modules(statuses.__path__)
    if module.name.endswith("_response")
)
_ALONE = ("container", "image", "pod_sandbox")
"""Messages that lists keep, each made once."""
_VALUES: dict[str, Any] = {
    "Event.kind": "CONTAINER_STOPPED_EVENT",
    "ContainerStatus.state": ContainerState.EXITED,
    "ContainerMetadata.stop_signal": "SIGUSR1",
    "ContainerConfig.stop_signal": api_pb2.SIGUSR2,
    "Sample.type": api_pb2.GAUGE,
    "ContainerStatus.resources": None,
}


_HALF: dict[str, Any] = {
    "ContainerStatus.exit_code": 3,
    "ContainerStatus.reason": "",
    "Image.digests": (),
    "Image.user": "1000",
}


def _read(name: str, variant: str) -> Any:
    module = importlib.import_module(f"generated.statuses.{name}")
    made = Made(variant, _VALUES | (_HALF if variant == "half" else {}))
    hints = typing.get_type_hints(module.read, localns={"facts": facts, "types": types})
    hints.pop("return")
    roots = {root: made.record(kind, root) for root, kind in hints.items()}
    return module.read(**roots)


@pytest.mark.parametrize("variant", ["full", "half", "unset"])
@pytest.mark.parametrize("name", [*_ALONE, *_RESPONSES])
def test_an_answer(name: str, variant: str) -> None:
    answer = json_format.MessageToDict(_read(name, variant), preserving_proto_field_name=True)
    expect("answers", f"{name}, {variant}", answer)


def test_every_answer_is_expected() -> None:
    assert {name.partition(",")[0] for name in names("answers")} == {*_ALONE, *_RESPONSES}
