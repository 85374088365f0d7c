"""CNI network lists: what is accepted, what is refused and how, and changes on disk."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.cni.config import CniConfigError, load, parse
from runtime.cni.directory import CniDirectory
from tests.harness.waiting import until

PLUGIN = {"type": "bridge"}


def conflist(name: str = "net", **keys: object) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": [PLUGIN]} | keys)


def conf(name: str = "net", **keys: object) -> str:
    return json.dumps({"cniVersion": "0.4.0", "name": name, "type": "ptp"} | keys)


def names(directory: Path, max_conf_num: int = 0) -> list[str]:
    return [network.name for network in load(str(directory), max_conf_num)]


def test_files_are_used_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "20-b.conflist").write_text(conflist("b"))
    (tmp_path / "10-a.conf").write_text(conf("a"))
    (tmp_path / "30-c.json").write_text(conf("c"))
    (tmp_path / "00-readme.txt").write_text("not a config")
    (tmp_path / "00-directory.conf").mkdir()
    assert names(tmp_path) == ["a", "b", "c"]
    assert names(tmp_path, 1) == ["a"]
    assert names(tmp_path, 2) == ["a", "b"]


def test_a_single_plugin_becomes_a_list_of_one() -> None:
    network = parse(conf(capabilities={"dns": True, "bandwidth": False}).encode(), is_list=False)
    assert (network.name, network.version, network.plugins[0].kind) == ("net", "0.4.0", "ptp")
    assert network.plugins[0].capabilities == {"dns"}
    assert json.loads(network.source)["plugins"][0]["type"] == "ptp"
    assert parse(network.source) == network


@pytest.mark.parametrize(
    ("keys", "version"),
    [
        ({}, "1.0.0"),
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersions": ["0.4.0", "1.1.0", "9.9.9"]}, "1.1.0"),
        ({"cniVersion": "9.9.9", "cniVersions": ["0.4.0"]}, "0.4.0"),
    ],
)
def test_the_newest_common_version_is_used(keys: dict[str, Any], version: str) -> None:
    network = parse(conflist(**keys).encode())
    assert network.version == version
    assert network.speaks("0.4.0") == (version != "0.1.0")


def test_plugins_of_a_directory_follow_the_inlined(tmp_path: Path) -> None:
    (tmp_path / "10.conflist").write_text(conflist("net"))
    (tmp_path / "net").mkdir()
    (tmp_path / "net/1.conf").write_text('{"type": "tuning"}')
    (network,) = load(str(tmp_path), 1)
    assert [plugin.kind for plugin in network.plugins] == ["bridge", "tuning"]
    assert parse(network.source).plugins == network.plugins  # DEL needs no directory
    (tmp_path / "10.conflist").write_text(conflist("net", loadOnlyInlinedPlugins="True"))
    (network,) = load(str(tmp_path), 1)
    assert [plugin.kind for plugin in network.plugins] == ["bridge"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{\n "name": "net",\n}', "x.conflist:3: not JSON: "),
        ("[]", "x.conflist:1: not a JSON object; write {…}"),
        (
            '{\n "cniVersion": "1.0.0",\n "plugins": []}',
            "x.conflist:1: the network has no name; name: letters, digits",
        ),
        ('{\n "name": "a/b"}', "x.conflist:2: 'a/b' is not a network name; name: letters"),
        (
            '{"name": "a",\n "cniVersion": "3.0.0"}',
            "x.conflist:2: cniVersion '3.0.0' is unknown here; use one of 0.1.0, 0.2.0",
        ),
        ('{"name": "a",\n "plugins": []}', "x.conflist:2: no plugins; list at least one plugin"),
        ('{"name": "a",\n "plugins": {}}', "x.conflist:2: plugins must be a list; write"),
        ('{"name": "a",\n "plugins": [7]}', "x.conflist:2: a plugin must be an object; write"),
        (
            '{"name": "a", "plugins": [\n {"type": "x"},\n {"typ": "y"}]}',
            "x.conflist:3: a plugin has no type; type: the name of an executable in cni.bin_dirs",
        ),
        (
            '{"name": "a", "plugins": [\n {"type": "../x"}]}',
            "x.conflist:2: '../x' is not a plugin's",
        ),
        (
            '{"name": "a", "plugins": [\n {"type": "x",\n "capabilities": ["dns"]}]}',
            "x.conflist:3: capabilities of x must be an object; write",
        ),
        (
            '{"name": "a",\n "loadOnlyInlinedPlugins": 1, "plugins": [{"type": "x"}]}',
            "x.conflist:2: loadOnlyInlinedPlugins must be true or false; loadOnlyInlinedPlugins",
        ),
        (
            f'{{"plugins": [{{"type": "x"}}],\n "name": "{"n" * 181}"}}',
            "x.conflist:2: the network's name has 181 characters; use at most 180",
        ),
        (
            f'{{"name": "a", "plugins": [{{"type": "x", "mtu": {"9" * 5000}}}]}}',
            "x.conflist: not usable: Exceeds the limit",
        ),
    ],
)
def test_bad_lists_are_refused_with_place_and_remedy(text: str, error: str) -> None:
    with pytest.raises(CniConfigError) as caught:
        parse(text.encode(), path="x.conflist")
    assert str(caught.value).startswith(error)


def test_a_list_in_a_file_for_single_plugins_is_refused() -> None:
    with pytest.raises(CniConfigError, match=r"x.conf:1: a list of plugins; rename the file to"):
        parse(conflist().encode(), path="x.conf", is_list=False)


def test_an_empty_or_missing_directory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CniConfigError, match="no network config found; install a pod network"):
        load(str(tmp_path), 1)
    with pytest.raises(CniConfigError, match="cannot read the CNI directory: No such file"):
        load(str(tmp_path / "missing"), 1)


async def test_changes_are_seen(tmp_path: Path) -> None:
    directory = tmp_path / "etc/cni/net.d"
    watched = CniDirectory(str(directory), 1)
    await watched.start()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert not watched.networks
    assert "no network config found" in str(watched.problem)

    (directory / "10.conflist").write_text(conflist("first"))
    await until(lambda: bool(watched.networks))
    assert (watched.networks[0].name, watched.problem) == ("first", None)

    (directory / "new").write_text(conflist("second"))
    (directory / "new").rename(directory / "10.conflist")
    await until(lambda: watched.networks[0].name == "second")

    (tmp_path / "target").write_text(conflist("linked"))
    (directory / "05.conflist").symlink_to(tmp_path / "target")
    await until(lambda: watched.networks[0].name == "linked")

    (directory / "05.conflist").unlink()
    (directory / "10.conflist").unlink()
    await until(lambda: watched.networks == ())
    assert "no network config found" in str(watched.problem)
    await watched.stop()


async def test_a_bad_file_leaves_the_good_network_in_use_and_is_reported(tmp_path: Path) -> None:
    (tmp_path / "10.conflist").write_text(conflist("good"))
    watched = CniDirectory(str(tmp_path), 1)
    await watched.start()
    (tmp_path / "00.conflist").write_text('{"name"')
    await until(lambda: watched.problem is not None)
    assert [network.name for network in watched.networks] == ["good"]
    assert f"{tmp_path}/00.conflist:1: not JSON" in str(watched.problem)
    (tmp_path / "00.conflist").unlink()
    await until(lambda: watched.problem is None)
    await watched.stop()


async def test_an_invalid_file_at_the_start_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "00.conflist").write_text("{}")
    (tmp_path / "10.conflist").write_text(conflist("other"))
    watched = CniDirectory(str(tmp_path), 1)
    await watched.start()
    assert not watched.networks
    assert "00.conflist:1: the network has no name" in str(watched.problem)
    await watched.stop()


async def test_a_removed_directory_is_waited_for(tmp_path: Path) -> None:
    directory = tmp_path / "etc/cni/net.d"
    watched = CniDirectory(str(directory), 1)
    await watched.start()
    (directory / "10.conflist").write_text(conflist("before"))
    await until(lambda: bool(watched.networks))
    shutil.rmtree(tmp_path / "etc")
    await until(lambda: not watched.networks)
    assert "cannot read the CNI directory" in str(watched.problem)
    await asyncio.sleep(0.1)
    directory.mkdir(parents=True)
    (directory / "10.conflist").write_text(conflist("after"))
    await until(lambda: bool(watched.networks))
    assert watched.networks[0].name == "after"
    await watched.stop()


async def test_a_directory_moved_away_and_back_is_followed(tmp_path: Path) -> None:
    directory = tmp_path / "net.d"
    directory.mkdir()
    (directory / "10.conflist").write_text(conflist("net"))
    watched = CniDirectory(str(directory), 1)
    await watched.start()
    directory.rename(tmp_path / "away")
    await until(lambda: not watched.networks)
    (tmp_path / "away").rename(directory)
    await until(lambda: bool(watched.networks))
    await watched.stop()
