"""Cgroup limits: from CRI fields to ``linux.resources``, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import CriError, FailedPrecondition, InvalidArgument

_PAGE_SIZE = re.compile(r"[1-9][0-9]*[KMG]B")

_RANGE = r"[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?"
_NUMBERS = re.compile(rf"{_RANGE}(,{_RANGE})*")
"""The kernel's list format: cpuset(7), including strides such as 0-15:2/4."""

SANDBOX_OOM_SCORE_ADJ = -998
"""The pause process must be killed last: without it the pod's namespaces and all its containers
end."""


_FIELD = "linux.resources"


def in_request(error: CriError, resources: str) -> CriError:
    """The error with the path that the field has in a request whose resources are at
    ``resources``; the same error if it is of another field."""
    before, found, field = (error.field or "").partition(f"{_FIELD}.")
    if before or not found:
        return error
    return type(error)(error.message, field=f"{resources}.{field}")


def swap_limit(
    *, memory_limit_in_bytes: int, memory_swap_limit_in_bytes: int, swap_controller: bool
) -> int | None:
    """The limit of memory and swap together; if unset, the memory limit, so a limited container
    does not swap.

    Without a swap controller nothing is written: runc would refuse the container.
    """
    if not swap_controller:
        return None
    limit = memory_swap_limit_in_bytes or memory_limit_in_bytes
    check_swap_limit(limit, memory=memory_limit_in_bytes)
    return limit or None


def check_swap_limit(limit: int | None, *, memory: int | None) -> None:
    """Raise InvalidArgument if the limit of memory and swap together is below that of memory: the
    kernel refuses it. An update of only one of them can make it so."""
    if 0 < (limit or 0) < (memory or 0):
        raise InvalidArgument(
            f"must be {memory} (memory_limit_in_bytes) or more, not {limit}: it counts memory and"
            " swap together",
            field=f"{_FIELD}.memory_swap_limit_in_bytes",
        )


def swap_limit_of(*, swap: int | None) -> int:
    """The limit as applied; 0 if there is none."""
    return swap or 0


def oom_score_adj(*, oom_score_adj: int | None, oom_score_adj_floor: int | None) -> int | None:
    """The requested value, raised to the lowest that this process may give its children; None
    without resources.

    A process without CAP_SYS_RESOURCE cannot lower the value; runc would fail the container.
    """
    return None if oom_score_adj is None else _raised(oom_score_adj, oom_score_adj_floor)


def _raised(value: int, floor: int | None) -> int:
    return value if floor is None else max(value, floor)


def oom_score_adj_of(*, oomScoreAdj: int | None) -> int:
    """The value as applied; 0 is also the kernel's default."""
    return oomScoreAdj or 0


def sandbox_oom_score_adj(*, oom_score_adj_floor: int | None) -> int:
    """The pause process's value, as low as this process may set it."""
    return _raised(SANDBOX_OOM_SCORE_ADJ, oom_score_adj_floor)


def cpus(*, cpuset_cpus: str) -> str | None:
    """The CPUs that the container may run on; None for all."""
    return _numbers(cpuset_cpus, "cpuset_cpus")


def cpus_of(*, cpus: str | None) -> str:
    """The CPUs as applied."""
    return cpus or ""


def memory_nodes(*, cpuset_mems: str) -> str | None:
    """The memory nodes that the container may use; None for all."""
    return _numbers(cpuset_mems, "cpuset_mems")


def memory_nodes_of(*, mems: str | None) -> str:
    """The memory nodes as applied."""
    return mems or ""


def hugepage_limits(
    *,
    hugepage_limits: list[types.LinuxHugepageLimit],
    hugetlb_controller: bool,
    disable_hugetlb_controller: bool,
    tolerate_missing_hugetlb_controller: bool,
) -> list[types.LinuxHugepageLimit] | None:
    """A limit for each page size; nothing if the configuration disables the controller, or if it is
    missing and the configuration tolerates that.

    The kubelet sends a limit of 0 for every page size of the node that a pod does not use, so on a
    node without the controller an error would fail every container.
    """
    for limit in hugepage_limits:
        if not _PAGE_SIZE.fullmatch(limit.pageSize):
            raise InvalidArgument(
                f"must be a page size such as 2MB or 1GB, not {limit.pageSize!r}",
                field=f"{_FIELD}.hugepage_limits.page_size",
            )
    if disable_hugetlb_controller or not hugepage_limits:
        return None
    if not hugetlb_controller:
        if tolerate_missing_hugetlb_controller:
            return None
        raise FailedPrecondition(
            "this node lacks the hugetlb cgroup controller; mount it, or set"
            " tolerate_missing_hugetlb_controller = true in the config",
            field=f"{_FIELD}.hugepage_limits",
        )
    return hugepage_limits


def hugepage_limits_of(
    *, hugepageLimits: list[types.LinuxHugepageLimit]
) -> list[api_pb2.HugepageLimit]:
    """The limits as applied."""
    return [
        api_pb2.HugepageLimit(page_size=limit.pageSize, limit=limit.limit)
        for limit in hugepageLimits
    ]


def unified(*, unified: Mapping[str, str], cgroup_unified: bool) -> dict[str, str] | None:
    """Files of cgroup v2; runc refuses them on v1, but only when the container starts."""
    if unified and not cgroup_unified:
        raise InvalidArgument(
            f"requires cgroup v2, but this node has v1; remove: {', '.join(sorted(unified))}",
            field=f"{_FIELD}.unified",
        )
    for name in unified:
        if not name or "/" in name or name in (".", ".."):
            raise InvalidArgument(
                f"must be the name of a file in the container's cgroup, not {name!r}",
                field=f"{_FIELD}.unified",
            )
    return dict(unified) or None


def unified_of(*, unified: dict[str, str]) -> dict[str, str]:
    """The files as applied."""
    return dict(unified)


def _numbers(text: str, field: str) -> str | None:
    """A list of numbers and ranges, None if it is empty; the kernel refuses anything else."""
    if text and not _NUMBERS.fullmatch(text):
        raise InvalidArgument(
            f"must be numbers and ranges such as 0-3,8, not {text!r}",
            field=f"{_FIELD}.{field}",
        )
    return text or None
