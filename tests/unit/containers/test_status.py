"""Which containers a list shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from runtime.containers.status import list_containers
from runtime.store.objects import Store

from . import samples

State = api_pb2.ContainerStateValue


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = samples.store(tmp_path)
    samples.container(store, "aa1", sandbox_id="pod1", labels={"app": "x", "tier": "1"})
    samples.container(store, "aa2", sandbox_id="pod2", labels={"app": "x"})
    samples.container(store, "bb1", sandbox_id="pod1", state=ContainerState.CREATED)
    samples.container(store, "cc1", sandbox_id="pod1", state=ContainerState.STARTING)
    samples.container(store, "dd1", sandbox_id="pod2", state=ContainerState.REMOVING)
    return store


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        pytest.param({}, ["aa1", "aa2", "bb1", "cc1", "dd1"], id="all"),
        pytest.param({"id": "aa1"}, ["aa1"], id="id"),
        pytest.param({"id": "aa"}, ["aa1", "aa2"], id="prefix"),
        pytest.param({"id": "a1"}, [], id="no-prefix"),
        pytest.param({"pod_sandbox_id": "pod1"}, ["aa1", "bb1", "cc1"], id="pod"),
        pytest.param({"label_selector": {"app": "x"}}, ["aa1", "aa2"], id="label"),
        pytest.param({"label_selector": {"app": "x", "tier": "1"}}, ["aa1"], id="labels"),
        pytest.param({"label_selector": {"app": ""}}, [], id="label-without-value"),
        pytest.param({"state": State(state=api_pb2.CONTAINER_RUNNING)}, ["aa1", "aa2"], id="state"),
        # CREATED is 0: the presence of the message decides
        pytest.param({"state": State()}, ["bb1", "cc1"], id="state-created-and-starting"),
        pytest.param({"state": State(state=api_pb2.CONTAINER_EXITED)}, ["dd1"], id="removing"),
        pytest.param({"id": "aa", "pod_sandbox_id": "pod2"}, ["aa2"], id="conjunctive"),
    ],
)
def test_filter(store: Store, wanted: dict[str, object], ids: list[str]) -> None:
    filter_ = api_pb2.ContainerFilter(**wanted)  # type: ignore[arg-type]
    answer = list_containers(store, api_pb2.ListContainersRequest(filter=filter_))
    assert [container.id for container in answer.containers] == ids


def test_without_a_filter_everything_is_listed(store: Store) -> None:
    assert len(list_containers(store, api_pb2.ListContainersRequest()).containers) == 5
