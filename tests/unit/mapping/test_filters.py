"""What each field of a list's filter selects, alone: ``filters.yaml`` has the ids of the items."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from generated.cri import api_pb2
from generated.handlers.ignored import IGNORED
from generated.handlers.redacted import REDACTED

from .expected import expect

_CONTAINERS = [
    api_pb2.Container(
        id=identity,
        pod_sandbox_id=pod,
        state=state,
        labels={"a": "1", name: "2"},
    )
    for identity, pod, state, name in (
        ("one", "pod", api_pb2.CONTAINER_CREATED, "b"),
        ("one-two", "pod-two", api_pb2.CONTAINER_RUNNING, "c"),
        ("three", "three", api_pb2.CONTAINER_EXITED, "c"),
    )
]
_PODS = [
    api_pb2.PodSandbox(id=identity, state=state, labels={"a": "1", name: "2"})
    for identity, state, name in (
        ("one", api_pb2.SANDBOX_READY, "b"),
        ("one-two", api_pb2.SANDBOX_NOTREADY, "c"),
        ("three", api_pb2.SANDBOX_READY, "c"),
    )
]
_LISTS: dict[str, Any] = {
    "ListContainersRequest": _CONTAINERS,
    "ListContainerStatsRequest": _CONTAINERS,
    "ListPodSandboxRequest": _PODS,
    "ListPodSandboxStatsRequest": _PODS,
}


def _filters(kind: Any) -> Iterator[tuple[str, Any]]:
    """Messages with one field set, and what is set."""
    for field in kind.DESCRIPTOR.fields:
        nested = field.message_type
        if nested is not None and nested.GetOptions().map_entry:
            for labels in ({"a": "1"}, {"a": "1", "c": "2"}, {"a": "2"}, {"d": ""}):
                words = ", ".join(f"{key}={value}" for key, value in labels.items())
                yield f"{field.name} {words}", kind(**{field.name: labels})
        elif nested is not None:
            below = getattr(api_pb2, nested.name)
            yield f"{field.name} empty", kind(**{field.name: below()})
            for words, message in _filters(below):
                yield f"{field.name}.{words}", kind(**{field.name: message})
        elif field.enum_type is not None:
            for value in field.enum_type.values:
                yield f"{field.name} {value.name}", kind(**{field.name: value.number})
        else:
            for text in ("o", "one", "one-two", "ne", "pod", "pod-two"):
                yield f"{field.name} {text}", kind(**{field.name: text})


@pytest.mark.parametrize("name", _LISTS)
def test_what_a_filter_selects(name: str) -> None:
    kind = getattr(api_pb2, name)
    module = importlib.import_module(f"generated.filters.{_snake(name)}")
    found = {
        words: {
            "selects": [item.id for item in module.selected(message, _LISTS[name])],
            "all": module.selects_all(message),
        }
        for words, message in [("nothing", kind()), *_filters(kind)]
    }
    expect("filters", name, found)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


@pytest.mark.parametrize(("name", "table"), [("secret", REDACTED), ("ignored", IGNORED)])
def test_fields_by_what_happens_to_them(name: str, table: Any) -> None:
    """Which never reach a log, and which may be set without any effect."""
    expect("fields", name, {message: sorted(fields) for message, fields in table.items()})
