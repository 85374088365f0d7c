"""Arguments, environment and directory of a process."""

from __future__ import annotations

import pytest

from generated.cri import api_pb2
from generated.items import key_value
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.transforms import process


@pytest.mark.parametrize(
    ("command", "args", "entrypoint", "cmd", "expected"),
    [
        pytest.param([], [], ["/e"], ["c"], ["/e", "c"], id="the image alone"),
        pytest.param([], ["a"], ["/e"], ["c"], ["/e", "a"], id="args replace cmd only"),
        pytest.param(["/x"], [], ["/e"], ["c"], ["/x"], id="a command replaces both"),
        pytest.param(["/x"], ["a"], ["/e"], ["c"], ["/x", "a"], id="nothing of the image"),
        pytest.param([], [], [], ["c"], ["c"], id="cmd alone is the command"),
        pytest.param([], ["a"], [""], ["c"], ["a"], id="an empty entrypoint is none"),
    ],
)
def test_args(
    command: list[str], args: list[str], entrypoint: list[str], cmd: list[str], expected: list[str]
) -> None:
    assert process.args(command=command, args=args, entrypoint=entrypoint, cmd=cmd) == expected


def test_an_image_without_a_command_needs_one_in_the_request() -> None:
    with pytest.raises(InvalidArgument, match=r"config\.command: required, because"):
        process.args(command=[], args=[], entrypoint=[], cmd=[])
    with pytest.raises(FailedPrecondition, match=r"pinned_images\.sandbox"):
        process.sandbox_args(entrypoint=[], cmd=[])


def test_what_is_longer_than_any_path_is_refused() -> None:
    longest = "/" + "é" * 2047  # two bytes each: 4095 in all
    assert process.program([longest, "a" * 100_000], field="cmd[0]") == [longest, "a" * 100_000]
    assert process.cwd(working_dir=longest, image_working_dir="", base_cwd="") == longest
    with pytest.raises(InvalidArgument, match=r"cmd\[0\]: must be .* at most 4095 bytes, not 4096"):
        process.program([longest + "x"], field="cmd[0]")
    for words in ({"command": [longest + "x"]}, {"entrypoint": [longest + "x"]}):
        with pytest.raises(InvalidArgument, match=r"config\.command"):
            process.args(**{"command": [], "args": [], "entrypoint": [], "cmd": [], **words})
    with pytest.raises(InvalidArgument, match=r"config\.working_dir"):
        process.cwd(working_dir="", image_working_dir=longest + "x", base_cwd="")


@pytest.mark.parametrize(
    ("working_dir", "image_working_dir", "expected"),
    [("/a", "/b", "/a"), ("", "/b", "/b"), ("", "", "/"), ("", "app", "/app")],
)
def test_cwd(working_dir: str, image_working_dir: str, expected: str) -> None:
    found = process.cwd(working_dir=working_dir, image_working_dir=image_working_dir, base_cwd="")
    assert found == expected


@pytest.mark.parametrize(
    ("envs", "image_env", "tty", "expected"),
    [
        pytest.param([], [], False, [process.DEFAULT_PATH, "HOSTNAME=pod"], id="defaults"),
        pytest.param(
            [], [], True, [process.DEFAULT_PATH, "TERM=xterm", "HOSTNAME=pod"], id="terminal"
        ),
        pytest.param(
            [("A", b"3"), ("B", b"4")],
            ["A=1", "PATH=/bin"],
            False,
            ["PATH=/bin", "HOSTNAME=pod", "A=3", "B=4"],
            id="the last writer wins in the first place",
        ),
        pytest.param(
            [("A", b"1")], ["HOSTNAME"], False, [process.DEFAULT_PATH, "A=1"], id="taken out"
        ),
        pytest.param(
            [("A", b"a=b\xff")],
            [],
            False,
            [process.DEFAULT_PATH, "HOSTNAME=pod", "A=a=b\ufffd"],
            id="what JSON cannot hold is replaced",
        ),
    ],
)
def test_env(
    envs: list[tuple[str, bytes]], image_env: list[str], tty: bool, expected: list[str]
) -> None:
    assert (
        process.env(
            envs=key_value.items(api_pb2.KeyValue(key=k, value=v) for k, v in envs),
            tty=tty,
            hostname="pod",
            node_hostname="node",
            image_env=image_env,
            device_env=(),
            base_env=(),
        )
        == expected
    )


def test_a_pod_on_the_nodes_network_shows_the_nodes_name() -> None:
    found = process.env(
        envs=[],
        tty=False,
        hostname="",
        node_hostname="node",
        image_env=[],
        device_env=(),
        base_env=(),
    )
    assert "HOSTNAME=node" in found


@pytest.mark.parametrize(
    ("env", "tty", "expected"),
    [
        (["A=1", "TERM=dumb"], False, ["A=1", "TERM=dumb"]),
        (["A=1", "TERM=dumb", "B=2"], True, ["A=1", "B=2", "TERM=xterm"]),
        (["TERMINFO=/t"], True, ["TERMINFO=/t", "TERM=xterm"]),
    ],
)
def test_a_command_on_a_terminal_has_the_terminals_term(
    env: list[str], tty: bool, expected: list[str]
) -> None:
    assert process.command_env(env, tty=tty) == expected
