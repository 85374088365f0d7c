"""metrics.yaml: every error, each at its place, and the meaning of a valid file."""

from __future__ import annotations

from pathlib import Path

import pytest

from codegen import generate, metrics
from codegen.emit import metrics as text
from codegen.errors import Problems, SpecError
from tests.unit.codegen.project import ROOT, settings

GOOD = """
prefix: container_

of:
  container: {}
  interface: {roots: [interface, sandbox]}
always: [container, interface, moment, sandbox, spec]

labels:
  pod: {container: sandbox.metadata.id, interface: sandbox.metadata.id}
files:
  v1:
    cpuacct.usage: {controller: cpuacct, form: number}
    blkio.bytes: {controller: blkio, form: devices}
  v2:
    cpu.stat: {form: keyed}
    io.stat: {form: devices}
    memory.current: {form: number}
    hugetlb.{pagesize}.current: {form: number}
metrics:
  container_cpu_seconds_total:
    help: CPU.
    type: counter
    of: container
    v1: {file: cpuacct.usage, unit: nanoseconds}
    v2: {file: cpu.stat, key: usage_usec, unit: microseconds}
  container_memory:
    help: Memory.
    type: gauge
    of: container
    v2: {file: memory.current, less: {file: cpu.stat, key: nr_periods}}
  container_pages:
    help: Pages.
    type: gauge
    of: container
    labels: [pagesize]
    v2: {file: "hugetlb.{pagesize}.current"}
  container_io:
    help: Bytes.
    type: counter
    of: container
    labels: [device, major, minor, operation]
    v1: {file: blkio.bytes, operations: {Read: Read}}
    v2: {file: io.stat, operations: {Read: rbytes}}
  container_faults:
    help: Faults.
    type: counter
    of: container
    labels: [kind]
    samples:
      - {given: {kind: minor}, v2: {file: cpu.stat, key: minor}}
      - {given: {kind: major}, v2: {file: cpu.stat, key: major}}
  container_disk:
    help: Disk.
    type: gauge
    of: container
    labels: [device]
    copy: root_filesystem.size
    copied: {device: root_filesystem.device}
  container_received:
    help: Network.
    type: counter
    of: interface
    labels: [interface]
    copy: interface.rx_bytes
    copied: {interface: interface.name}
"""


@pytest.fixture(scope="module")
def paths() -> object:
    problems = Problems()
    found = generate.translation(ROOT, generate.read_api(ROOT), None, problems)
    assert found is not None
    return found.paths


def read(root: Path, paths: object, written: str = GOOD) -> metrics.Metrics:
    """The file as a model; raises SpecError with every fault."""
    (root / "spec").mkdir()
    (root / metrics.FILE).write_text(written)
    problems = Problems()
    found = metrics.read(root, paths, problems)  # type: ignore[arg-type]
    problems.stop_if_any()
    return found


def lines(found: metrics.Metrics, function: str) -> list[str]:
    (one,) = (f for f in text.text(found, settings()).functions if f.name == function)
    return one.lines


def test_a_good_file_becomes_one_block_for_each_source(tmp_path: Path, paths: object) -> None:
    found = read(tmp_path, paths)
    assert lines(found, "of_files_v1") == [
        'cpuacct_usage = metrics.number(files.get("cpuacct.usage"))',
        'blkio_bytes = metrics.devices(files.get("blkio.bytes"), device_names)',
        "# container_cpu_seconds_total: cpuacct.usage",
        'samples.counter("container_cpu_seconds_total", '
        "metrics.seconds(cpuacct_usage, 1_000_000_000))",
        "# container_io: blkio.bytes",
        "for device, counts in blkio_bytes.items():",
        '    for operation, key in (("Read", "Read"),):',
        '        samples.counter("container_io", counts.get(key), '
        "device.name, device.major, device.minor, operation)",
    ]
    v2 = lines(found, "of_files_v2")
    working = 'metrics.less(memory_current, cpu_stat.get("nr_periods"))'
    assert f'samples.gauge("container_memory", {working})' in v2
    assert v2[v2.index("# container_pages: hugetlb.{pagesize}.current") + 1 :][:2] == [
        "for page_size, number in hugetlb_current.items():",
        '    samples.gauge("container_pages", number, page_size)',
    ]
    assert 'samples.counter("container_faults", cpu_stat.get("major"), "major")' in v2
    assert lines(found, "of_container") == [
        "# container_disk <- root_filesystem.size",
        "if root_filesystem is not None:",
        '    samples.gauge("container_disk", root_filesystem.size, root_filesystem.device)',
    ]
    assert lines(found, "of_interface") == [
        "# container_received <- interface.rx_bytes",
        'samples.counter("container_received", interface.rx_bytes, interface.name)',
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("v1: {file: cpuacct.usage,", "v1: {file: cpuacct.usag,", "files.v1 has no cpuacct.usag"),
        ("key: usage_usec, ", "", "cpu.stat has several values"),
        (
            "{file: cpuacct.usage, unit",
            "{file: cpuacct.usage, key: x, unit",
            "cpuacct.usage takes no key here: its form is number",
        ),
        (
            "operations: {Read: rbytes}",
            "key: rbytes, operations: {Read: rbytes}",
            "io.stat takes no key here: operations name its keys",
        ),
        (
            "{file: cpu.stat, key: minor}",
            "{file: cpu.stat, operations: {a: b}}",
            "cpu.stat has no operations: its form is keyed",
        ),
        (
            'v2: {file: "hugetlb.{pagesize}.current"}',
            'v2: {file: "hugetlb.{pagesize}.current", less: {file: memory.current}}',
            "hugetlb.{pagesize}.current gives several samples",
        ),
        (
            "v2: {file: memory.current, less: {file: cpu.stat, key: nr_periods}}",
            "v2: {file: cpu.stat, key: nr_periods}",
            "no metric uses the file memory.current of v2",
        ),
        (
            "[device, major, minor, operation]",
            "[device]",
            "operation is not a label of container_io",
        ),
        (
            "labels: [pagesize]",
            "labels: [pagesize, size]",
            "nothing gives the label size of container_pages a value in v2",
        ),
        ("labels: [kind]", "labels: [kind, pod]", "every metric has the label pod already"),
        ("{kind: major}", "{kind: minor}", "two samples of container_faults have the same labels"),
        (
            "    samples:\n",
            "    copy: moment.at\n    samples:\n",
            "container_faults has samples and a source of its own",
        ),
        ("    copy: root_filesystem.size\n", "", "container_disk needs either copy, or a source"),
        (
            "    copy: root_filesystem.size\n",
            "    copy: root_filesystem.size\n    v2: {file: cpu.stat, key: a}\n",
            "container_disk needs either copy, or a source",
        ),
        (
            "    copy: interface.rx_bytes\n",
            "    v2: {file: cpu.stat, key: a}\n",
            "container_received is of interface, for which no file is read",
        ),
        (
            "    v2: {file: memory.current,",
            "    unit: nanoseconds\n    v2: {file: memory.current,",
            "the unit of container_memory is that of nothing",
        ),
        ("copy: root_filesystem.size", "copy: root_filesystem.siz", "has no siz"),
        ("copy: root_filesystem.size", "copy: root_filesystem.device", "is str, not a number"),
        (
            "device: root_filesystem.device",
            "device: root_filesystem.size",
            "is int, not a text",
        ),
        (
            "copy: root_filesystem.size",
            "copy: interface.rx_bytes",
            "a sample of container has no interface",
        ),
        (
            "copy: interface.rx_bytes",
            "copy: root_filesystem.size",
            "a sample of interface has no root_filesystem",
        ),
        ("type: gauge", "type: histogram", "says 'histogram'"),
        ("form: keyed", "form: json", "says 'json'"),
        ("controller: cpuacct, ", "", "lacks the key 'controller'"),
        ("  container_pages:", "  pages:", "must begin with container_"),
        ("    help: CPU.\n", "", "lacks the key 'help'"),
        ("unit: nanoseconds", "unit: days", "says 'days'"),
    ],
)
def test_a_faulty_metric_is_refused(
    tmp_path: Path, paths: object, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    with pytest.raises(SpecError) as caught:
        read(tmp_path, paths, GOOD.replace(old, new, 1))
    assert any(said in str(error) for error in caught.value.faults), str(caught.value)
    assert all(e.place.file == metrics.FILE and e.place.line for e in caught.value.faults)
