"""Which thread of the log keeper runs the loop, so that a hung log file system cannot stop it.

The loop calls into the logs' file systems directly, because passing each call to another thread
would halve the throughput. The thread that runs the loop holds the *turn*, a lock for all state,
and releases it during such a call. If the call takes longer than `PATIENCE`, a watchdog thread
starts another thread that continues the loop; the blocked thread finishes its call and exits when
the file system responds.
"""

from __future__ import annotations

import select
import threading
import time

from runtime.logs.keeper.container import Container
from runtime.logs.keeper.files import LogFile

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 0.25
"""Seconds after which a blocked call into a log's file system loses the loop to another thread."""

STALL_SECONDS = 10.0
"""How long a container waits for its log's file system before its output counts as lost."""


class Turn:
    """The lock for all state of the keeper, and the calls that are made without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looping = 0
        """The thread that runs the loop."""
        self._call: tuple[Container, float] | None = None
        """The loop's current call into a file system, and its start (monotonic seconds)."""
        self._hung: list[Container] = []
        """Containers for which other threads are blocked in a call."""
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    # the loop

    def take_loop(self) -> None:
        """Make the calling thread, which holds the turn, the one that runs the loop."""
        self._looping = threading.get_ident()

    def has_loop(self) -> bool:
        """Return whether the calling thread still runs the loop."""
        return self._looping == threading.get_ident()

    def end_loop(self) -> None:
        """The loop has ended, and with it `watch`."""
        self._ended.set()

    def poll(self, epoll: select.epoll, seconds: float | None) -> list[tuple[int, int]]:
        """Wait for events without the turn."""
        self._lock.release()
        try:
            return epoll.poll(seconds)
        finally:
            self._lock.acquire()

    # calls into file systems

    @property
    def anything_hangs(self) -> bool:
        """Whether another thread is blocked in a call."""
        return bool(self._hung)

    def call(self, container: Container, function: Callable[[], None]) -> None:
        """Make a call that can block, without the turn. Any state can change meanwhile."""
        now = time.monotonic()
        container.call_since = now
        if self.has_loop():
            self._call = container, now
        else:
            self._hung.append(container)
        self._lock.release()
        try:
            function()
        finally:
            self._lock.acquire()
            container.call_since = 0.0
            if self.has_loop():
                self._call = None
            else:
                self._hung.remove(container)
            container.stalled = ""

    def in_own_thread(self, work: Callable[..., None], *arguments: object) -> None:
        """Run ``work``, which is likely to block, in a thread that waits for the turn."""

        def with_turn() -> None:
            with self:
                work(*arguments)

        threading.Thread(target=with_turn, daemon=True).start()

    def hangs(self, file: LogFile) -> bool:
        """Return whether a call into a log's file system is known to be blocked."""
        now = time.monotonic()
        return any(
            container.log is not None
            and now - container.call_since > PATIENCE
            and file.device in (0, container.log.device)
            for container in self._hung
        )

    # the watchdog

    def watch(self, *, go_on: Callable[[], None], stalled: Callable[[Container], None]) -> None:
        """Run ``go_on``, the loop, in a new thread whenever the current one is blocked.

        Returns when the loop has ended. ``stalled`` is called for a container whose call takes
        longer than `STALL_SECONDS`.
        """
        while not self._ended.wait(PATIENCE):
            if self._call is not None or self._hung:
                with self:
                    self._look_after_calls(time.monotonic(), go_on, stalled)

    def _look_after_calls(
        self, now: float, go_on: Callable[[], None], stalled: Callable[[Container], None]
    ) -> None:
        if self._call is not None and now - self._call[1] > PATIENCE:
            self._hung.append(self._call[0])
            self._call = None
            self._looping = 0
            threading.Thread(target=go_on, daemon=True).start()
        for container in list(self._hung):
            if container.log is None or container.stalled or not container.call_since:
                continue
            if now - container.call_since > STALL_SECONDS:
                container.stalled = (
                    f"the file system of {container.log.path} has not responded for "
                    f"{STALL_SECONDS:g} s"
                )
                stalled(container)
