"""How cgroup files are parsed, and samples of metrics created from their values.

The generated `generated.metrics` defines which value of which file is the sample of which metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from generated.cri import api_pb2
from runtime.transforms import facts


class Samples:
    """Collects the samples of one container or pod."""

    def __init__(self, labels: Sequence[str], at: int) -> None:
        """``labels`` are the values of the labels that every metric has, ``at`` the time of the
        reading in nanoseconds since the epoch."""
        self._labels = tuple(labels)
        self.at = at
        self._found: list[facts.Sample] = []

    @property
    def all(self) -> tuple[facts.Sample, ...]:
        """What was collected."""
        return tuple(self._found)

    def counter(self, name: str, value: int | None, *labels: str) -> None:
        """Add a sample of a counter; None adds no sample."""
        self._add(api_pb2.COUNTER, name, value, labels)

    def gauge(self, name: str, value: int | None, *labels: str) -> None:
        """Add a sample of a gauge; None adds no sample."""
        self._add(api_pb2.GAUGE, name, value, labels)

    def _add(
        self,
        type: api_pb2.MetricType,
        name: str,
        value: int | None,
        labels: tuple[str, ...],
    ) -> None:
        # a negative value is a limit of the OCI spec that means "no limit"
        if value is not None and value >= 0:
            self._found.append(facts.Sample(name, type, (*self._labels, *labels), value, self.at))


class Device(NamedTuple):
    """A block device."""

    name: str
    """As in /dev, e.g. ``/dev/sda``; ``MAJOR:MINOR`` if the node does not know it (any more)."""
    major: str
    minor: str


def number(text: str | None) -> int | None:
    """The only number of a file."""
    return int(text) if text is not None and text.strip().isdigit() else None


def limit(text: str | None) -> int | None:
    """The only number of a file, 0 for "max": cAdvisor's value for no limit."""
    return 0 if text is not None and text.strip() == "max" else number(text)


def keyed(text: str | None) -> Mapping[str, int]:
    """The values of lines like ``pgfault 3``."""
    words = (text or "").split()
    return {k: int(v) for k, v in zip(words[::2], words[1::2], strict=False) if v.isdigit()}


def pressure(text: str | None) -> Mapping[str, int]:
    """The totals of lines like ``some avg10=0.00 … total=3``, as ``some.total``."""
    found: dict[str, int] = {}
    for line in (text or "").splitlines():
        kind, _, rest = line.partition(" ")
        _, known, total = rest.rpartition("total=")
        if known and total.isdigit():
            found[f"{kind}.total"] = int(total)
    return found


def devices(
    text: str | None, names: Mapping[tuple[str, str], str]
) -> Mapping[Device, Mapping[str, int]]:
    """The counters of each device, from lines like ``8:0 Read 3`` (blkio of cgroup v1) or
    ``8:0 rbytes=3 wbytes=4`` (io.stat of cgroup v2); ``names`` are by major and minor number."""
    found: dict[Device, dict[str, int]] = {}
    for line in (text or "").splitlines():
        numbers, *counts = line.split()
        major, colon, minor = numbers.partition(":")
        if not colon:
            continue  # the total of all devices
        device = Device(names.get((major, minor), numbers), major, minor)
        found.setdefault(device, {}).update(_counts(counts))
    return found


def _counts(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    if len(words) == 2 and words[1].isdigit():
        yield words[0], int(words[1])
    for word in words:
        key, _, value = word.partition("=")
        if value.isdigit():
            yield key, int(value)


def by_page_size(files: Mapping[str, str], before: str, after: str) -> Mapping[str, int]:
    """The numbers of files like ``hugetlb.2MB.current``, by page size."""
    found = {
        name[len(before) : -len(after)]: number(text)
        for name, text in files.items()
        if name.startswith(before) and name.endswith(after)
    }
    return {size: value for size, value in found.items() if value is not None}


def less(value: int | None, part: int | None) -> int | None:
    """The rest of ``value``, at least 0."""
    return None if value is None else max(0, value - (part or 0))


def seconds(value: int | None, per_second: int) -> int | None:
    """Whole seconds."""
    return None if value is None else value // per_second


def device_names(partitions: str) -> Mapping[tuple[str, str], str]:
    """The paths in /dev by major and minor number, from the content of /proc/partitions."""
    rows = (line.split() for line in partitions.splitlines()[2:])
    return {(row[0], row[1]): f"/dev/{row[3]}" for row in rows if len(row) == 4}
