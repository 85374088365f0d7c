"""What kubectl asks of a kubelet: exec, attach, port-forward, run and logs."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.harness.kubelet import Kubelet, Pod, container, pod, wait_until
from tests.harness.streams import V4, V5, Streams, connected, forward, ports

from .conftest import BUSYBOX

SERVE = "mkdir /srv; echo served > /srv/index.html; httpd -p 8080 -h /srv; "
# the kubelet translates v5 to SPDY, and passes every other protocol through to our server
WAYS = pytest.mark.parametrize(
    ("transport", "protocol"), [("spdy", V4), ("websocket", V5), ("websocket", V4)]
)


@pytest.fixture(scope="module")
def app(session_kubelet: Kubelet) -> Pod:
    reader = container(BUSYBOX, "cat", "reader", stdin=True)
    terminal = container(BUSYBOX, "exec sh", "terminal", stdin=True, tty=True)
    running = session_kubelet.run(
        pod(container(BUSYBOX, f"{SERVE}sleep 1000"), reader, terminal, name="streams")
    )
    running.ready()
    return running


async def run(app: Pod, way: tuple[str, str], *command: str, stdin: bytes | None = None) -> Streams:
    """A command without a terminal, fed and read to its end."""
    transport, protocol = way
    names = ("error", "stdout", "stderr")
    opened = names if stdin is None else (*names, "stdin")
    fed = int(stdin is not None)
    url = app.stream_url("exec", command=command, input=fed, output=1, error=1)
    async with connected(url, transport, protocol, opened, app.kubelet.tls) as streams:
        if stdin is not None:
            await streams.send("stdin", stdin)
            await streams.end("stdin")
        await streams.all_ended(names, 30)
        return streams


@WAYS
async def test_exec_gives_output_and_exit_code(app: Pod, transport: str, protocol: str) -> None:
    command = ("sh", "-c", "echo out; echo err >&2; exit 3")
    streams = await run(app, (transport, protocol), *command)
    assert bytes(streams.received["stdout"]) == b"out\n"
    assert bytes(streams.received["stderr"]) == b"err\n"
    assert streams.exit_code == 3
    assert (await run(app, (transport, protocol), "true")).exit_code == 0


@pytest.mark.parametrize(("transport", "protocol"), [("spdy", V4), ("websocket", V5)])
async def test_exec_reads_its_input_to_the_end(app: Pod, transport: str, protocol: str) -> None:
    data = bytes(range(256)) * 4096
    streams = await run(app, (transport, protocol), "cat", stdin=data)
    assert bytes(streams.received["stdout"]) == data
    assert streams.exit_code == 0


@WAYS
async def test_exec_on_a_terminal_with_its_size(app: Pod, transport: str, protocol: str) -> None:
    url = app.stream_url("exec", command=["sh"], input=1, output=1, tty=1)
    names = ("error", "stdin", "stdout", "resize")
    async with connected(url, transport, protocol, names, app.kubelet.tls) as terminal:
        await terminal.send("resize", json.dumps({"Width": 71, "Height": 23}).encode())
        await terminal.until(lambda: b"# " in terminal.received["stdout"])
        await terminal.send("stdin", b"stty size\n")
        await terminal.until(lambda: b"23 71" in terminal.received["stdout"])
        await terminal.send("stdin", b"exit 4\n")
        await terminal.all_ended(("error",))
        assert terminal.exit_code == 4


@WAYS
async def test_exec_of_what_does_not_exist_is_an_error(
    app: Pod, transport: str, protocol: str
) -> None:
    streams = await run(app, (transport, protocol), "/no/such/program")
    assert streams.status["status"] == "Failure"
    assert "/no/such/program" in streams.status["message"]


@WAYS
async def test_attach_to_a_container_that_reads(app: Pod, transport: str, protocol: str) -> None:
    url = app.stream_url("attach", "reader", input=1, output=1, error=1)
    names = ("error", "stdin", "stdout", "stderr")
    async with connected(url, transport, protocol, names, app.kubelet.tls) as streams:
        await streams.send("stdin", b"to and fro\n")
        await streams.until(lambda: b"to and fro\n" in streams.received["stdout"])
    wait_until(lambda: "to and fro\n" in app.logs("reader"))


@WAYS
async def test_attach_to_a_terminal(app: Pod, transport: str, protocol: str) -> None:
    url = app.stream_url("attach", "terminal", input=1, output=1, tty=1)
    names = ("error", "stdin", "stdout", "resize")
    async with connected(url, transport, protocol, names, app.kubelet.tls) as terminal:
        await terminal.send("resize", b'{"Width":81,"Height":27}')
        await terminal.send("stdin", b"stty size\n")
        await terminal.until(lambda: b"27 81" in terminal.received["stdout"])


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_port_is_forwarded(app: Pod, transport: str) -> None:
    async with ports(app.forward_url(), transport, app.kubelet.tls) as streams:
        data, error = await forward(streams, 8080, 1)
        await streams.send(data, b"GET / HTTP/1.0\r\n\r\n")
        await streams.all_ended((data,))
        assert bytes(streams.received[data]).endswith(b"served\n")
        assert not streams.received[error]


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
async def test_a_closed_port_is_an_error_of_its_own_stream(app: Pod, transport: str) -> None:
    async with ports(app.forward_url(), transport, app.kubelet.tls) as streams:
        _, error = await forward(streams, 9, 1)
        await streams.until(lambda: streams.received[error])
        assert b"9" in streams.received[error]
        data, _ = await forward(streams, 8080, 2)
        await streams.send(data, b"GET / HTTP/1.0\r\n\r\n")
        await streams.all_ended((data,))
        assert bytes(streams.received[data]).endswith(b"served\n")


def test_run_answers_the_output(app: Pod) -> None:
    assert app.run("cat", "/srv/index.html") == "served\n"


async def test_many_commands_at_once(app: Pod) -> None:
    done = await asyncio.gather(
        *(run(app, ("websocket", V5), "echo", str(number)) for number in range(20))
    )
    assert [bytes(one.received["stdout"]) for one in done] == [b"%d\n" % n for n in range(20)]
