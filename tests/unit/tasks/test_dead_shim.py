"""runc deletes what a dead shim left, with the options of the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.containerd import containers_pb2, runc_options_pb2
from runtime.containerd.values import proto_any
from runtime.errors import Unknown
from runtime.tasks import dead_shim, shims
from tests.unit.sandboxes.fakes import FakeContainerd


def containerd_with(tmp_path: Path, script: str) -> FakeContainerd:
    """A daemon that knows container c1, whose runc is ``script``."""
    runc = tmp_path / "runc"
    runc.write_text(f"#!/bin/sh\n{script}\n")
    runc.chmod(0o755)
    options = runc_options_pb2.Options(
        binary_name=str(runc), root=str(tmp_path / "state"), systemd_cgroup=True
    )
    containerd = FakeContainerd()
    containerd.records["c1"] = containers_pb2.Container(
        id="c1",
        runtime=containers_pb2.Container.Runtime(
            name="io.containerd.runc.v2", options=proto_any(options)
        ),
    )
    return containerd


async def test_runc_deletes_a_container_that_it_still_has_state_of(tmp_path: Path) -> None:
    (tmp_path / "state" / "k8s.io" / "c1").mkdir(parents=True)
    containerd = containerd_with(tmp_path, f'echo "$@" > {tmp_path}/called')
    await dead_shim.clean_up(containerd, "c1")  # type: ignore[arg-type]
    called = (tmp_path / "called").read_text()
    assert called == f"--root {tmp_path}/state/k8s.io --systemd-cgroup delete --force c1\n"


@pytest.mark.parametrize("container", ["c1", "never made"])
async def test_nothing_is_done_where_nothing_is_left(tmp_path: Path, container: str) -> None:
    containerd = containerd_with(tmp_path, f"touch {tmp_path}/called")
    await dead_shim.clean_up(containerd, container)  # type: ignore[arg-type]
    assert not (tmp_path / "called").exists()


async def test_a_failure_has_the_words_of_runc(tmp_path: Path) -> None:
    (tmp_path / "state" / "k8s.io" / "c1").mkdir(parents=True)
    containerd = containerd_with(tmp_path, "echo no such luck; exit 1")
    with pytest.raises(Unknown, match="container c1 of a dead shim: no such luck"):
        await dead_shim.clean_up(containerd, "c1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("being_created", "waits"), [(None, True), (frozenset({"c1"}), True), (frozenset(), False)]
)
async def test_only_a_creation_that_was_seen_is_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    being_created: frozenset[str] | None,
    waits: bool,
) -> None:
    waited: list[str] = []

    async def creation_ended(container_id: str, limit: float) -> None:
        waited.append(container_id)

    monkeypatch.setattr(shims, "creation_ended", creation_ended)
    record = containerd_with(tmp_path, "exit 1").records["c1"]
    await dead_shim.clean_up_record("k8s.io", record, being_created=being_created)
    assert waited == (["c1"] if waits else [])
