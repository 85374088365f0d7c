"""Snapshots that a pull finds are held before they count as there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from runtime.images.manifest import chain_ids
from runtime.images.unpack import Unpacker

DIFF_IDS = ["sha256:" + letter * 64 for letter in "abc"]
CHAIN = chain_ids(DIFF_IDS)
LEASE = (("containerd-lease", "pull"),)


class Daemon:
    """Snapshots by name; the collector may take them just before a lease holds one."""

    def __init__(self, names: list[str], collected: list[set[str]]) -> None:
        self.names = set(names)
        self.held: list[str] = []
        self._collected = collected
        self.snapshots = SimpleNamespace(Stat=self._stat)
        self.leases = SimpleNamespace(AddResource=self._add)

    async def _stat(self, request: Any) -> None:
        if request.key not in self.names:
            raise aio.AioRpcError(
                grpc.StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), request.key
            )

    async def _add(self, request: Any) -> None:
        if self._collected:
            self.names -= self._collected.pop(0)
        self.held.append(request.resource.id)


@pytest.mark.parametrize(
    ("names", "collected", "count"),
    [
        pytest.param([], [], 0, id="none is there"),
        pytest.param(CHAIN, [], 3, id="all are there"),
        pytest.param(CHAIN[:2], [], 2, id="the lower ones"),
        pytest.param(CHAIN, [{CHAIN[2]}], 2, id="the last is collected"),
        pytest.param(CHAIN, [set(CHAIN)], 0, id="all are collected"),
        pytest.param(CHAIN, [{CHAIN[2]}, {CHAIN[1]}], 1, id="one after the other"),
    ],
)
async def test_a_snapshot_that_is_collected_before_it_is_held_does_not_count(
    names: list[str], collected: list[set[str]], count: int
) -> None:
    daemon = Daemon(names, collected)
    unpacker = Unpacker(daemon)  # type: ignore[arg-type]
    assert await unpacker._held(LEASE, "overlayfs", CHAIN) == count
    if count:
        assert daemon.held[-1] == CHAIN[count - 1]
