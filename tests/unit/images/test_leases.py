"""The lease of a pull ends with it, unless the network failed."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import NotFound, Unavailable
from runtime.images.leases import PullLeases


class FakeLeases:
    """The IDs of all existing leases."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.labels: dict[str, dict[str, str]] = {}
        self.slow = asyncio.Event()
        self.slow.set()

    async def Create(self, request: Any) -> None:
        assert request.labels["containerd.io/gc.expire"].endswith("Z")
        await self.slow.wait()
        self.ids.add(request.id)
        self.labels[request.id] = dict(request.labels)

    async def List(self, _request: Any) -> Any:
        leases = [SimpleNamespace(id=id_, labels=self.labels[id_]) for id_ in sorted(self.ids)]
        return SimpleNamespace(leases=leases)

    async def Delete(self, request: Any) -> None:
        self.ids.remove(request.id)


@pytest.fixture
def fake() -> FakeLeases:
    return FakeLeases()


@pytest.fixture
def leases(fake: FakeLeases) -> PullLeases:
    containerd: Any = SimpleNamespace(
        leases=fake, with_lease=lambda lease: (("containerd-lease", lease),)
    )
    return PullLeases(containerd, "/state")


async def hold(leases: PullLeases, failure: BaseException | None = None) -> str:
    """The ID of the lease of a pull that ended in this way."""
    lease = ""
    with contextlib.suppress(NotFound, Unavailable, asyncio.CancelledError):
        async with leases.hold("docker.io/library/a:1") as metadata:
            lease = dict(metadata)["containerd-lease"]
            await asyncio.sleep(0)
            if failure:
                raise failure
    return lease


@pytest.mark.parametrize("failure", [None, NotFound("no such image")])
async def test_lease_ends_with_the_pull(
    leases: PullLeases, fake: FakeLeases, failure: BaseException | None
) -> None:
    await hold(leases, failure)
    assert fake.ids == set()


@pytest.mark.parametrize("failure", [Unavailable("it broke"), asyncio.CancelledError()])
async def test_next_attempt_reuses_the_lease(
    leases: PullLeases, fake: FakeLeases, failure: BaseException
) -> None:
    broken = await hold(leases, failure)
    assert fake.ids == {broken}
    assert await hold(leases) == broken
    assert fake.ids == set()


async def test_two_failed_pulls_keep_one_lease(leases: PullLeases, fake: FakeLeases) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(hold(leases, Unavailable("it broke")))
    assert len(fake.ids) == 1


async def test_no_lease_is_left_after_the_server(leases: PullLeases, fake: FakeLeases) -> None:
    await hold(leases, Unavailable("it broke"))
    await leases.close()
    assert fake.ids == set()


async def test_a_pull_cancelled_while_its_lease_is_made_leaves_none(
    leases: PullLeases, fake: FakeLeases
) -> None:
    """The daemon may create it after the call was cancelled."""
    fake.slow.clear()
    pull = asyncio.create_task(hold(leases))
    await asyncio.sleep(0.01)
    pull.cancel()
    await asyncio.sleep(0.01)
    fake.slow.set()
    await asyncio.gather(pull, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert fake.ids == set()


async def test_a_server_deletes_the_leases_of_the_one_before_it_and_no_others(
    leases: PullLeases, fake: FakeLeases
) -> None:
    killed = PullLeases(leases._containerd, "/state")
    async with killed.hold("docker.io/library/a:1"), killed.hold("docker.io/library/b:1"):
        others: dict[str, dict[str, str]] = {
            "pod-1": {},
            "cri-pull-elsewhere": {"io.cri-containerd.pull.state": "/other"},
        }
        left = fake.ids | others.keys()
        fake.ids |= others.keys()
        fake.labels |= others
        await leases.delete_leftovers()
        assert len(left) == 4
        assert fake.ids == set(others)
        fake.ids = left
