"""The processes that were OOM-killed, from the kernel log.

A cgroup also counts these kills, and shims report them. But under systemd the cgroup of a
container, and its counter, is removed with the last process, often before it has been read. The
kernel log (/dev/kmsg) keeps the time, the process and its cgroup, and has a kill before the process
exits.
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
"""Maximum length of a record in bytes."""

_KEPT = 1024
"""Maximum number of stored kills: far more than happen between two reads."""

_SLACK = 600 * 1_000_000_000
"""Nanoseconds by which the log's clock can be behind after a long uptime. PID reuse within this
window, with both processes OOM-killed, is considered impossible in practice."""

# "oom-kill:constraint=…,task_memcg=/cgroup/of/the/process,task=name,pid=7,uid=0": at most ten in
# five seconds. The name is the process's own choice, so nothing after it is read.
_CGROUP = re.compile(r"oom-kill:constraint=[^;]*?,task_memcg=([^,]*),")
# "Memory cgroup out of memory: Killed process 7 (name) …": for every kill.
_PROCESS = re.compile(r"(?:Memory cgroup out|Out) of memory: Killed process (\d+) ")
_WORDS = (b"oom-kill:", b"Killed process ")


@dataclass(frozen=True, slots=True)
class Kill:
    """One log line about a kill; the kernel writes one with the cgroup and one with the process."""

    at: int
    """Nanoseconds since the epoch."""
    cgroup: str = ""
    pid: int = 0


class OomLog:
    """The kills in the log; none without the permission to read it."""

    def __init__(self, path: str = _KMSG) -> None:
        self._kills: deque[Kill] = deque(maxlen=_KEPT)
        self._log = -1
        try:
            self._log = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.info(
                "cannot read the kernel log; out-of-memory kills are known only from shims",
                path=path,
                error=error.strerror,
            )

    def read(self) -> None:
        """Read new records; the first time this is the whole log, which takes some 10 ms."""
        for record in self._records():
            kill = parse(record, boot=time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC))
            if kill is not None:
                self._kills.append(kill)

    def killed(self, container_id: str, pid: int, since: int) -> bool:
        """Whether the container's first process ``pid``, or another one in its cgroup, was killed.

        ``since`` (nanoseconds since the epoch) is when ``pid`` was started; earlier kills of the
        same pid were another process.
        """
        self.read()
        return any(
            container_id in kill.cgroup
            or (pid > 0 and kill.pid == pid and kill.at >= since - _SLACK)
            for kill in self._kills
        )

    def close(self) -> None:
        """Close the log. Idempotent."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _records(self) -> Iterator[str]:
        while self._log >= 0:
            try:
                record = os.read(self._log, _RECORD_BYTES)
            except BrokenPipeError:
                # the next record was overwritten; the next read continues with the oldest one left
                continue
            except OSError:
                return
            if not record:
                return
            # of the many records that a pod's network causes, none needs more than this
            if any(words in record for words in _WORDS):
                yield record.decode("utf-8", "replace")


def parse(record: str, *, boot: int) -> Kill | None:
    """The kill that a record of /dev/kmsg describes; None for other records.

    ``boot`` is the time at which the log's clock was 0, in nanoseconds since the epoch.
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
