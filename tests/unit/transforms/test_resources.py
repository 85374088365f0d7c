"""Cgroup limits, in both directions."""

from __future__ import annotations

import pytest

from generated.cri import api_pb2
from generated.items import hugepage_limit
from generated.oci import types
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.transforms import resources


@pytest.mark.parametrize(
    ("memory", "swap", "controller", "expected"),
    [
        pytest.param(100, 0, True, 100, id="unset follows memory"),
        pytest.param(100, 150, True, 150, id="set"),
        pytest.param(0, 150, True, 150, id="set alone"),
        pytest.param(0, 0, True, None, id="neither"),
        pytest.param(100, -1, True, -1, id="unlimited swap"),
        pytest.param(100, 150, False, None, id="no controller"),
    ],
)
def test_swap_limit(memory: int, swap: int, controller: bool, expected: int | None) -> None:
    found = resources.swap_limit(
        memory_limit_in_bytes=memory, memory_swap_limit_in_bytes=swap, swap_controller=controller
    )
    assert found == expected


def test_swap_below_memory_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"memory_swap_limit_in_bytes: must be 100"):
        resources.swap_limit(
            memory_limit_in_bytes=100, memory_swap_limit_in_bytes=50, swap_controller=True
        )


@pytest.mark.parametrize(
    ("wish", "floor", "expected"),
    [(-998, None, -998), (-998, 0, 0), (-998, -999, -998), (500, 0, 500)],
)
def test_oom_score_adj_is_raised_to_the_floor(wish: int, floor: int | None, expected: int) -> None:
    found = resources.oom_score_adj(oom_score_adj=wish, oom_score_adj_floor=floor)
    assert found == expected


def test_the_pause_process_dies_last() -> None:
    assert resources.sandbox_oom_score_adj(oom_score_adj_floor=None) == -998
    assert resources.sandbox_oom_score_adj(oom_score_adj_floor=0) == 0


def test_hugepage_limits_round_trip() -> None:
    limits = [api_pb2.HugepageLimit(page_size="2MB", limit=1 << 30)]
    found = hugepages(limits, controller=True)
    assert found is not None
    assert resources.hugepage_limits_of(hugepageLimits=found) == limits


@pytest.mark.parametrize(
    ("controller", "disabled", "tolerated", "written"),
    [
        (True, False, False, True),
        (True, True, False, False),
        (False, True, False, False),
        (False, False, True, False),
    ],
)
def test_hugepage_limits_need_the_controller_and_the_key(
    controller: bool, disabled: bool, tolerated: bool, written: bool
) -> None:
    limits = [api_pb2.HugepageLimit(page_size="2MB", limit=0)]
    found = hugepages(limits, controller=controller, disabled=disabled, tolerated=tolerated)
    assert (found is not None) is written


def test_a_missing_required_controller_refuses_the_container() -> None:
    limits = [api_pb2.HugepageLimit(page_size="2MB", limit=0)]
    with pytest.raises(FailedPrecondition, match="tolerate_missing_hugetlb_controller = true"):
        hugepages(limits, controller=False, tolerated=False)
    assert hugepages([], controller=False, tolerated=False) is None


@pytest.mark.parametrize("size", ["2", "2mb", "../x", "0MB", "2MB\n"])
def test_an_invalid_page_size_is_refused(size: str) -> None:
    with pytest.raises(InvalidArgument, match="must be a page size such as 2MB"):
        hugepages([api_pb2.HugepageLimit(page_size=size)], controller=True)


@pytest.mark.parametrize("text", ["0", "0-3", "0-3,8", "1,2,10-12", "0-15:2/4,20"])
def test_lists_of_cpus_and_memory_nodes_round_trip(text: str) -> None:
    assert resources.cpus_of(cpus=resources.cpus(cpuset_cpus=text)) == text
    assert resources.memory_nodes_of(mems=resources.memory_nodes(cpuset_mems=text)) == text
    assert resources.cpus(cpuset_cpus="") is None
    assert resources.memory_nodes_of(mems=None) == ""


@pytest.mark.parametrize("text", ["-1", "0-", "a", "0 1", "0,", "../x", "0\n"])
def test_an_invalid_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="cpuset_cpus: must be numbers and ranges such as"):
        resources.cpus(cpuset_cpus=text)
    with pytest.raises(InvalidArgument, match="cpuset_mems: must be numbers and ranges such as"):
        resources.memory_nodes(cpuset_mems=text)


def hugepages(
    limits: list[api_pb2.HugepageLimit],
    *,
    controller: bool,
    disabled: bool = False,
    tolerated: bool = True,
) -> list[types.LinuxHugepageLimit] | None:
    return resources.hugepage_limits(
        hugepage_limits=hugepage_limit.items(limits),
        hugetlb_controller=controller,
        disable_hugetlb_controller=disabled,
        tolerate_missing_hugetlb_controller=tolerated,
    )


@pytest.mark.parametrize("name", ["", "..", "../../x", "a/b"])
def test_a_file_outside_the_cgroup_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.resources\.unified: must be the name of a"):
        resources.unified(unified={name: "1"}, cgroup_unified=True)


def test_unified_needs_cgroup_v2() -> None:
    files = {"memory.high": "1"}
    assert resources.unified(unified=files, cgroup_unified=True) == files
    assert resources.unified(unified={}, cgroup_unified=False) is None
    with pytest.raises(
        InvalidArgument, match=r"resources\.unified: requires cgroup v2.*memory\.high"
    ):
        resources.unified(unified=files, cgroup_unified=False)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("linux.resources.unified", "linux.unified"),
        ("config.working_dir", "config.working_dir"),
        (None, None),
    ],
)
def test_an_error_names_the_field_of_the_request(field: str | None, expected: str | None) -> None:
    error = resources.in_request(InvalidArgument("no", field=field), "linux")
    assert isinstance(error, InvalidArgument) and error.field == expected
