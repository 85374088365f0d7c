"""Threads for blocking work, with a separate pool for each class of work.

A system call on a network mount whose server is down never returns, and no deadline frees its
thread. With a single pool, one pod with a dead volume would take all threads and block every other
pod. Therefore each class of work has its own pool, with these rules for calls that hang:

- Work names the *place* (path) that it accesses. While an access to a place hangs, further accesses
  to it fail at once with UNAVAILABLE, which names the place, so a client that retries takes no
  thread.
- At most `_AT_ONE_PLACE` accesses to one place run at the same time; others wait.
- If every thread of a pool hangs, its work is refused, and so is work that has waited longer than
  `HANGS` seconds for a thread.

The threads are daemon threads, so a call that hangs never prevents the server from exiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from runtime.errors import Unavailable

HANGS: Final = 10.0
"""Seconds after which a call is considered to hang. A disk under load answers sooner."""

_AT_ONE_PLACE: Final = 4
_IDLE_SECONDS: Final = 60.0
"""How long an idle thread lives, in seconds."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[], Any]
    places: Sequence[str]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    at: str = ""
    """The place that it accesses now."""
    since: float = 0.0
    """Monotonic time at which that access began; 0 while it waits for a thread."""

    def hangs(self, now: float) -> bool:
        return 0 < self.since <= now - HANGS

    def look_at(self, place: str) -> None:
        self.at, self.since = place, time.monotonic()

    def run(self) -> Callable[[], None]:
        """Run in a thread of the pool; return the function that delivers the result to the loop."""
        try:
            result = self.work()
        except BaseException as error:
            return partial(self._settle, self.answer.set_exception, error)
        return partial(self._settle, self.answer.set_result, result)

    def refuse(self, error: Unavailable) -> None:
        """Fail without having run; called in the loop's thread."""
        self._settle(self.answer.set_exception, error)

    def _settle(self, settle: Callable[[Any], None], value: object) -> None:
        if not self.answer.done():
            settle(value)


class _Local(threading.local):
    job: _Job | None = None


_local = _Local()


class Threads:
    """The threads of one class of work."""

    def __init__(self, work: str, *, size: int) -> None:
        """``work`` names the class in errors, e.g. ``looks at host paths``."""
        self._work = work
        self._size = size
        self._lock = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._threads = 0
        self._idle = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(*args)``, called in a thread; raises Unavailable if that is refused."""
        return await self.run_at((), function, *args, **kwargs)

    async def run_at(
        self, places: Sequence[str], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``run``, for work that accesses ``places``: paths that can hang.

        Work on several places calls `looking_at` before each one.
        """
        loop = asyncio.get_running_loop()
        work = partial(copy_context().run, function, *args, **kwargs)
        job = _Job(work, places, loop, loop.create_future())
        job.at = places[0] if places else ""
        self._submit(job)
        patience = loop.call_later(HANGS, self._refuse_if_waiting, job)
        try:
            answer: T = await job.answer
            return answer
        finally:
            patience.cancel()

    def _submit(self, job: _Job) -> None:
        """Give a job to an idle or a new thread; otherwise it waits."""
        with self._lock:
            self._refuse_if_hung(job)
            self._waiting.append(job)
            if not self._may_run(job):
                return
            if self._idle:
                self._lock.notify()
            runnable = sum(map(self._may_run, self._waiting))
            if self._idle < runnable and self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._serve, name=self._work, daemon=True).start()

    def _may_run(self, job: _Job) -> bool:
        """Return whether the limit for this place allows another job."""
        at_its_place = sum(running.at == job.at for running in self._running) if job.at else 0
        return at_its_place < _AT_ONE_PLACE

    def _refuse_if_hung(self, job: _Job) -> None:
        now = time.monotonic()
        hung = [running for running in self._running if running.hangs(now)]
        at_the_same = {running.at for running in hung}.intersection(job.places)
        if at_the_same or len(hung) >= self._size:
            raise self._unavailable(hung, at_the_same)

    def _refuse_if_waiting(self, job: _Job) -> None:
        now = time.monotonic()
        with self._lock:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
            hung = [running for running in self._running if running.hangs(now)]
        job.refuse(self._unavailable(hung, set()))

    def _unavailable(self, hung: Sequence[_Job], only: set[str]) -> Unavailable:
        """Describe what hangs, at all places or only at ``only``."""
        counts = Counter(job.at for job in hung if not only or job.at in only)
        if not counts:
            return Unavailable(f"no thread for {self._work} became free within {HANGS:g} s")
        total = sum(counts.values())
        places = ", ".join(sorted(filter(None, counts)))
        what = f"{total} {self._work} hang" if total > 1 else f"1 of the {self._work} hangs"
        return Unavailable(
            f"{what}{f' on {places}' if places else ''}; "
            "is it a mount whose server does not answer? Make it answer, or unmount it lazily"
        )

    def _serve(self) -> None:
        done: Callable[[], None] | None = None
        while (job := self._next(done)) is not None:
            _local.job = job
            done = partial(self._tell, job, job.run())
            _local.job = job = None

    def _tell(self, job: _Job, answer: Callable[[], None]) -> None:
        self._running.discard(job)
        # when the loop is closed, the server has ended meanwhile
        with contextlib.suppress(RuntimeError):
            job.loop.call_soon_threadsafe(answer)

    def _next(self, done: Callable[[], None] | None) -> _Job | None:
        """Return the next job, or None after an idle time, which ends the thread.

        ``done`` delivers the result of the last job. It is called under the lock, so that a caller
        that gets the result and has more work finds this thread idle.
        """
        with self._lock:
            if done is not None:
                done()
                del done
            while True:
                given_up = [job for job in self._waiting if job.answer.cancelled()]
                for job in given_up:
                    self._waiting.remove(job)
                chosen = next(filter(self._may_run, self._waiting), None)
                if chosen is not None:
                    self._waiting.remove(chosen)
                    chosen.since = time.monotonic()
                    self._running.add(chosen)
                    return chosen
                self._idle += 1
                called = self._lock.wait(_IDLE_SECONDS)
                self._idle -= 1
                if not called and not self._waiting:
                    self._threads -= 1
                    return None


def looking_at(place: str) -> None:
    """Set the place that the work of this thread accesses from now on."""
    if _local.job is not None:
        _local.job.look_at(place)


HOST_PATHS: Final = Threads("looks at host paths", size=32)
"""Paths in a request; any of them can be on a mount that hangs."""

STATE_FILES: Final = Threads("operations on the server's own files", size=8)
"""Files below ``root`` and ``state``."""

IMAGE_FILES: Final = Threads("readings of images' files", size=8)
"""Files in the layers of images, which a snapshotter can serve over the network."""

CONFIGURATION: Final = Threads("readings of the node's configuration", size=4)
"""The CNI directory, hosts files and certificates of registries, and modules imported late."""

NETWORK_NAMESPACES: Final = Threads("operations on network namespaces", size=8)

CGROUPS: Final = Threads("readings of cgroups", size=4)
"""Statistics of cgroups and network interfaces, the kernel log, and other kernel data."""

DOCUMENTS: Final = Threads("readings of long documents", size=4)
"""JSON of images that is too large to parse in the loop."""
