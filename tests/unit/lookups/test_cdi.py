"""The CDI directories: changes without a restart, broken files next to good ones, host nodes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition
from runtime.lookups.cdi import CdiDirectories
from tests.unit.containers.world import World


def write(path: Path, *names: str, **edits: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    devices = [
        {"name": name, "containerEdits": edits or {"env": [f"FROM={path.name}"]}} for name in names
    ]
    path.write_text(json.dumps({"cdiVersion": "0.6.0", "kind": "v.com/g", "devices": devices}))


@pytest.fixture
def directories(tmp_path: Path) -> CdiDirectories:
    return CdiDirectories([str(tmp_path / "etc"), str(tmp_path / "run")])


def test_a_change_is_seen_at_the_next_request(directories: CdiDirectories, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"unresolvable CDI devices v\.com/g=a"):
        directories.look_up(["v.com/g=a"])
    write(tmp_path / "etc/one.json", "a")
    assert directories.look_up(["v.com/g=a"]).env == ("FROM=one.json",)
    write(tmp_path / "run/two.json", "a")
    assert directories.look_up(["v.com/g=a"]).env == ("FROM=two.json",)
    (tmp_path / "run/two.json").unlink()
    assert directories.look_up(["v.com/g=a"]).env == ("FROM=one.json",)
    write(tmp_path / "etc/one.json", "b")
    with pytest.raises(FailedPrecondition, match=r"v\.com/g has b"):
        directories.look_up(["v.com/g=a"])


def test_an_unchanged_file_is_read_once(directories: CdiDirectories, tmp_path: Path) -> None:
    write(tmp_path / "etc/one.json", "a")
    (first,) = directories.files()
    (second,) = directories.files()
    assert first is second


def test_yaml_is_read_as_json_is(directories: CdiDirectories, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/one.yaml").write_text(
        'cdiVersion: "0.5.0"\n'
        "kind: v.com/g\n"
        "devices:\n"
        '  - name: "0"\n'
        "    containerEdits:\n"
        "      deviceNodes:\n"
        "        - {path: /dev/x, hostPath: /dev/null, fileMode: 0666, permissions: rw}\n"
    )
    edits = directories.look_up(["v.com/g=0"])
    (node,), (rule,) = edits.devices, edits.device_rules
    assert node.device.to_dict() == {
        "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666
    }  # fmt: skip
    assert (rule.type, rule.major, rule.minor, rule.access) == ("c", 1, 3, "rw")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.json", b"{", "Expecting property name"),
        ("b.json", b"[]", "expected `object`, got `array`"),
        ("b.json", b'{"kind": "a.b/c", "kind": "a.b/d"}', "the key 'kind' occurs twice"),
        ("b.json", b"[" * 100_000, "nested|recursion"),
        ("b.json", b"\xff\xfe{", "utf"),
        ("b.yaml", b"kind: a.b/c\nkind: a.b/d\n", "line 1: the key 'kind' occurs twice"),
        ("b.yaml", b"kind: [a\n", "expected"),
        ("b.yaml", b"!!python/object/apply:os.getpid []\n", "could not determine a constructor"),
        ("b.yaml", b"? [a]\n: b\n", "unhashable"),
        ("b.yaml", b"a: &a [*a]\n", "nested"),
    ],
)
def test_a_broken_file_is_named_and_does_not_hide_others(
    directories: CdiDirectories, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    write(tmp_path / "etc/a.json", "a")
    (tmp_path / "etc" / name).write_bytes(content)
    assert directories.look_up(["v.com/g=a"]).env == ("FROM=a.json",)
    with pytest.raises(FailedPrecondition, match=rf"not readable: \S*{name}: .*({reason})"):
        directories.look_up(["v.com/g=b"])


def test_other_files_and_directories_are_not_looked_at(
    directories: CdiDirectories, tmp_path: Path
) -> None:
    write(tmp_path / "etc/a.json", "a")
    (tmp_path / "etc/b.json").mkdir()
    (tmp_path / "etc/c.txt").write_text("{")
    os.mkfifo(tmp_path / "etc/d.json")
    assert [file.problem for file in directories.files()] == [""]


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"path": "/dev/not-there"}, "/dev/not-there is not on this node"),
        ({"path": "/etc/passwd"}, "must be of type b, c or p, and on this node it is no device"),
        ({"path": "/dev/null", "type": "b"}, "must be of type b, and on this node it is c"),
    ],
)
def test_a_node_that_the_host_does_not_have_is_refused(
    directories: CdiDirectories, tmp_path: Path, node: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "etc/a.json", "a", deviceNodes=[node])
    with pytest.raises(FailedPrecondition, match=reason):
        directories.look_up(["v.com/g=a"])


def test_a_node_with_its_own_numbers_is_not_looked_for(
    directories: CdiDirectories, tmp_path: Path
) -> None:
    node = {"path": "/dev/not-there", "type": "c", "major": 10, "minor": 0, "permissions": "none"}
    fifo = {"path": "/dev/pipe", "type": "p"}
    write(tmp_path / "etc/a.json", "a", deviceNodes=[node, fifo])
    edits = directories.look_up(["v.com/g=a"])
    first, second = edits.devices
    assert (first.device.major, first.device.minor) == (10, 0)
    assert second.device.major is None
    assert edits.device_rules == ()


def test_devices_are_refused_while_cdi_is_disabled(tmp_path: Path) -> None:
    write(tmp_path / "etc/a.json", "a")
    off = CdiDirectories([str(tmp_path / "etc")], enabled=False)
    with pytest.raises(FailedPrecondition, match=r"v.com/g=a cannot be .* set enable_cdi = true"):
        off.look_up(["v.com/g=a"])
    assert off.look_up([]).env == ()


async def test_a_container_gets_its_devices_by_annotation(tmp_path: Path) -> None:
    world = World(tmp_path)
    write(tmp_path / "cdi/a.json", "a")
    container = await world.created(annotations={"cdi.k8s.io/x": "v.com/g=a"})
    spec = json.loads(world.daemon.records[container.id].spec.value)
    assert "FROM=a.json" in spec["process"]["env"]


async def test_a_container_whose_device_is_unknown_leaves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(FailedPrecondition, match=r"^config\.CDI_devices: unresolvable CDI devices"):
        await world.created(CDI_devices=[{"name": "v.com/g=a"}])
    assert not world.daemon.holdings
