"""The messages with which a blob is written to the content store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from generated.containerd import content_pb2
from runtime.images import content
from runtime.images.manifest import Descriptor

STAT, WRITE, COMMIT = (
    content_pb2.WriteAction.STAT,
    content_pb2.WriteAction.WRITE,
    content_pb2.WriteAction.COMMIT,
)
PIECE = content._PIECE


class Store:
    """A content store with one write, which earlier attempts have brought to ``offset``."""

    def __init__(self, offset: int = 0) -> None:
        self.data = bytearray(offset)
        self.asked: list[content_pb2.WriteContentRequest] = []
        self.answers: list[content_pb2.WriteContentResponse] = []
        self.waiting = 0
        """The most messages that were not confirmed when another was sent."""
        self.content = SimpleNamespace(Write=lambda metadata: self)

    async def write(self, request: content_pb2.WriteContentRequest) -> None:
        self.waiting = max(self.waiting, len(self.answers))
        self.asked.append(request)
        if request.action != STAT:
            assert request.offset == len(self.data)
            self.data += request.data
        self.answers.append(content_pb2.WriteContentResponse(offset=len(self.data)))

    async def read(self) -> content_pb2.WriteContentResponse:
        return self.answers.pop(0)

    def cancel(self) -> None:
        assert not self.answers, "every message was confirmed"


async def written(store: Store, blob: bytes, piece: int) -> None:
    async def source(offset: int) -> AsyncGenerator[bytes, None]:
        for begin in range(offset, len(blob), piece):
            yield blob[begin : begin + piece]

    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:1", len(blob))
    daemon: Any = store
    await content.write(daemon, descriptor, source, labels={"a": "b"}, metadata=())


@pytest.mark.parametrize(
    ("size", "offset", "sent"),
    [
        pytest.param(5, 0, [(COMMIT, 0, 5)], id="small"),
        pytest.param(0, 0, [(COMMIT, 0, 0)], id="empty"),
        pytest.param(5, 3, [(COMMIT, 3, 2)], id="resumed"),
        pytest.param(5, 5, [(COMMIT, 5, 0)], id="only the commit was missing"),
        pytest.param(
            2 * PIECE + 5,
            0,
            [(WRITE, 0, PIECE), (WRITE, PIECE, PIECE), (COMMIT, 2 * PIECE, 5)],
            id="large",
        ),
        pytest.param(PIECE, 0, [(WRITE, 0, PIECE), (COMMIT, PIECE, 0)], id="exactly a piece"),
    ],
)
async def test_the_last_bytes_are_sent_with_the_commit(
    size: int, offset: int, sent: list[tuple[int, int, int]]
) -> None:
    blob = bytes(size)
    store = Store(offset)
    await written(store, blob, PIECE // 4)
    assert bytes(store.data) == blob
    assert store.asked[0].action == STAT
    assert [(each.action, each.offset, len(each.data)) for each in store.asked[1:]] == sent
    commit = store.asked[-1]
    assert (commit.total, commit.expected, dict(commit.labels)) == (size, "sha256:1", {"a": "b"})


async def test_at_most_two_messages_are_on_their_way() -> None:
    store = Store()
    await written(store, bytes(5 * PIECE), PIECE)
    assert store.waiting == 1
