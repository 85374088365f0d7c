"""Which pods a list shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from runtime.sandboxes.status import list_sandboxes
from runtime.store.objects import Store
from tests.unit.containers import samples

State = api_pb2.PodSandboxStateValue


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = samples.store(tmp_path)
    for name in ("aa1", "aa2", "bb1"):
        samples.sandbox(store, name)
    return store


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        pytest.param({}, ["aa1", "aa2", "bb1"], id="all"),
        pytest.param({"id": "aa1"}, ["aa1"], id="id"),
        pytest.param({"id": "aa"}, ["aa1", "aa2"], id="prefix-of-several"),
        pytest.param({"id": "a1"}, [], id="no-prefix"),
        # READY is 0: the presence of the message decides
        pytest.param({"state": State()}, ["aa1", "aa2", "bb1"], id="ready"),
        pytest.param({"state": State(state=api_pb2.SANDBOX_NOTREADY)}, [], id="not-ready"),
        pytest.param({"label_selector": {"none": "x"}}, [], id="label"),
    ],
)
def test_filter(store: Store, wanted: dict[str, object], ids: list[str]) -> None:
    filter_ = api_pb2.PodSandboxFilter(**wanted)  # type: ignore[arg-type]
    answer = list_sandboxes(store, api_pb2.ListPodSandboxRequest(filter=filter_))
    assert [sandbox.id for sandbox in answer.items] == ids


def test_an_unfiltered_list_is_cached(store: Store) -> None:
    whole = list_sandboxes(store, api_pb2.ListPodSandboxRequest())
    empty = api_pb2.ListPodSandboxRequest(filter=api_pb2.PodSandboxFilter())
    assert list_sandboxes(store, empty) is whole
