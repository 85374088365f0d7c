"""Which processes the out-of-memory killer ended, from the kernel's own log.

A cgroup counts such kills too, and shims report them, but under systemd the cgroup of a
container goes with its last process, and with it the count, often before anybody has read it.
The log (/dev/kmsg) keeps them, with the time, the process and its cgroup, and a kill is in it
before the process has ended.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

_KMSG = "/dev/kmsg"
_RECORD_BYTES = 8192
"""The longest record that the kernel gives to a reader."""

_KEPT = 1024
"""Kills that are remembered: far more than end between two looks."""

_SLACK = 600 * 1_000_000_000
"""Nanoseconds by which the log's clock may be behind after a long uptime. PID reuse within this
window, with both processes killed for memory, is considered impossible in practice."""

# "oom-kill:constraint=…,task_memcg=/cgroup/of/the/process,task=name,pid=7,uid=0": at most ten in
# five seconds. The name is the process's own choice, so nothing after it is read.
_CGROUP = re.compile(r"oom-kill:constraint=[^;]*?,task_memcg=([^,]*),")
# "Memory cgroup out of memory: Killed process 7 (name) …": for every kill.
_PROCESS = re.compile(r"(?:Memory cgroup out|Out) of memory: Killed process (\d+) ")


@dataclass(frozen=True, slots=True)
class Kill:
    """One line about a kill; the kernel writes one with the cgroup and one with the process."""

    at: int
    """Nanoseconds since the epoch."""
    cgroup: str = ""
    pid: int = 0


class OomLog:
    """The kills that the log holds; without the right to read it there are none."""

    def __init__(self, path: str = _KMSG) -> None:
        self._kills: deque[Kill] = deque(maxlen=_KEPT)
        self._log = -1
        try:
            self._log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info(
                "the kernel's log is closed to us: only shims tell of kills for memory",
                path=path,
                error=error.strerror,
            )

    def read(self) -> None:
        """Take in what is new; the first time that is the whole log, some ten milliseconds."""
        for record in self._records():
            kill = parse(record, boot=time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC))
            if kill is not None:
                self._kills.append(kill)

    def killed(self, container_id: str, pid: int, since: int) -> bool:
        """Whether the container's first process ``pid``, or another in its cgroup, was killed; a
        number is that of this process only from ``since`` (nanoseconds since the epoch) on."""
        self.read()
        return any(
            container_id in kill.cgroup
            or (pid > 0 and kill.pid == pid and kill.at >= since - _SLACK)
            for kill in self._kills
        )

    def close(self) -> None:
        """Let go of the log. Repeatable."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _records(self) -> Iterator[str]:
        while self._log >= 0:
            try:
                record = os.read(self._log, _RECORD_BYTES)
            except BrokenPipeError:
                # the next record was overwritten; the read after this goes on with the oldest left
                continue
            except OSError:
                return
            if not record:
                return
            yield record.decode("utf-8", "replace")


def parse(record: str, *, boot: int) -> Kill | None:
    """The kill that a record of /dev/kmsg tells of; None for every other record.

    ``boot`` is the moment, in nanoseconds since the epoch, at which the log's clock was 0.
    """
    head, _, message = record.partition(";")
    by_cgroup, by_process = _CGROUP.match(message), _PROCESS.match(message)
    if by_cgroup is None and by_process is None:
        return None
    # "priority,sequence,microseconds,flags;message"
    at = boot + int(head.split(",")[2]) * 1000
    if by_cgroup is not None:
        return Kill(at, cgroup=by_cgroup[1])
    return None if by_process is None else Kill(at, pid=int(by_process[1]))
