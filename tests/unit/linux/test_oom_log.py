"""Out-of-memory kills, from recorded lines of the kernel log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from runtime.linux.oom_log import Kill, OomLog, parse

SECOND = 1_000_000_000
CGROUP = (
    "4,901,5000000,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=x,mems_allowed=0,"
    "oom_memcg=/pods/abc,task_memcg=/pods/abc,task=evil,task_memcg=/pods/other,,pid=7,uid=0\n"
)
PROCESS = (
    "3,902,5000001,-;Memory cgroup out of memory: Killed process 22804 (dd) total-vm:23060kB, "
    "anon-rss:14976kB, UID:0 pgtables:72kB oom_score_adj:0\n"
)


@pytest.mark.parametrize(
    ("record", "kill"),
    [
        pytest.param(CGROUP, Kill(15 * SECOND, cgroup="/pods/abc"), id="cgroup"),
        pytest.param(PROCESS, Kill(15 * SECOND + 1000, pid=22804), id="process"),
        pytest.param(
            "3,1,5000000,-;Out of memory: Killed process 9 (dd) total-vm:1kB",
            Kill(15 * SECOND, pid=9),
            id="whole-node",
        ),
        pytest.param("4,1,5000000,-;dd invoked oom-killer: gfp_mask=0xcc0", None, id="other"),
        pytest.param("6,1,5000000,-;x Killed process 5 (y)", None, id="somebody-says-so"),
        pytest.param("", None, id="empty"),
    ],
)
def test_a_record(record: str, kill: Kill | None) -> None:
    assert parse(record, boot=10 * SECOND) == kill


class Recorded(OomLog):
    """A log with these records, whose clock started at the epoch's second ``boot``."""

    def __init__(self, *records: str) -> None:
        super().__init__("/no/such/log")
        boot = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._kills.extend(kill for r in records if (kill := parse(r, boot=boot)))


def test_a_kill_is_recognised_by_cgroup_or_by_process() -> None:
    log = Recorded(CGROUP, PROCESS)
    assert log.killed("abc", 0, since=0)
    assert log.killed("def", 22804, since=0)
    assert not log.killed("def", 0, since=0)
    assert not log.killed("other", 7, since=0)


def test_a_kill_before_the_start_was_of_another_process() -> None:
    assert not Recorded(PROCESS).killed("def", 22804, since=time.time_ns() + 3600 * SECOND)


def test_without_the_log_nothing_was_killed(tmp_path: Path) -> None:
    log = OomLog(str(tmp_path / "absent"))
    assert not log.killed("abc", 1, since=0)
    log.close()
