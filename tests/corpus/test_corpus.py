"""Every request of the corpus is accepted, and fits the schemas of what it becomes."""

from __future__ import annotations

import json

import pytest

from tests.corpus import results
from tests.corpus.__main__ import differences, entries, report
from tests.corpus.requests import FOLDER, Request, read, text

_REQUESTS = list(read())


def test_there_are_enough() -> None:
    assert len(_REQUESTS) >= 100


@pytest.mark.parametrize("request_", _REQUESTS, ids=lambda request: request.name)
def test_a_request_is_accepted_and_fits_the_schema(request_: Request) -> None:
    found = results.of(request_)
    assert "refused" not in found
    if request_.rpc == "CreateContainer":
        assert found["annotations[io.kubernetes.cri.container-type]"] == "container"
    if request_.rpc == "RunPodSandbox":
        assert found["plan.pod_name"]
        assert found["cni.args.K8S_POD_NAME"]


@pytest.mark.parametrize("request_", _REQUESTS, ids=lambda request: request.name)
def test_a_file_is_written_as_the_capture_writes_it(request_: Request) -> None:
    path = FOLDER / f"{request_.name}.json"
    assert path.read_text() == text(request_.rpc, request_.message)


def test_differences_are_shown_by_their_entry() -> None:
    request = next(one for one in _REQUESTS if one.name == "web-server/create-container.nginx")
    before = {request.name: results.of(request)}
    after = json.loads(json.dumps(before))
    after[request.name]["linux.resources.memory.limit"] = 1
    del after[request.name]["process.cwd"]
    assert [(target, change) for _, target, change in differences(before, after)] == [
        ("linux.resources.memory.limit", "134217728 → 1"),
        ("process.cwd", '"/srv" → absent'),
    ]
    shown = report(before, after)
    assert shown.startswith("1 requests, 1 with another result\n")
    assert "spec/mapping/linux_container_resources.yaml" in entries("linux.resources.memory.limit")
    assert f"- `{request.name}` linux.resources.memory.limit: 134217728 → 1" in shown
    assert report(before, before) == "1 requests, 0 with another result"


def test_a_key_of_a_list_or_map_has_the_entry_of_the_list_or_map() -> None:
    assert "mount.yaml" in entries("mounts[/var/run].source")
    assert "labels" in entries("Container.labels[io.kubernetes.container.name]")
    assert entries("mounts[/proc].type") == entries("mounts[/var/run].type")
    assert entries("annotations[a.b/c]") != entries("annotations[io.kubernetes.cri.sandbox-id]")
