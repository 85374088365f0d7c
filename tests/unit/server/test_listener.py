"""The socket exists before the server is ready, and only its owner can open it."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc import aio

from runtime.config.tables import ConfigError
from runtime.server import listener
from tests.harness.waiting import PATIENCE


def with_a_method(server: aio.Server) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"Echo": handler}),))


async def test_a_client_that_comes_before_the_start_is_answered_at_once_after_it(
    tmp_path: Path,
) -> None:
    server = listener.bound(tmp_path / "cri.sock")
    # a client that was refused would not come again while this test runs
    back_off = [(f"grpc.{which}_reconnect_backoff_ms", 600_000) for which in ("initial", "min")]
    async with aio.insecure_channel(f"unix://{tmp_path}/cri.sock", back_off) as channel:
        echo: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/s/Echo")
        call = echo(b"hello", timeout=PATIENCE)
        await asyncio.sleep(0.1)
        assert not call.done()
        with_a_method(server)
        await server.start()
        assert await call == b"hello"
        await server.stop(0)


async def test_only_the_owner_can_open_the_socket(tmp_path: Path) -> None:
    server = listener.bound(tmp_path / "new" / "cri.sock")
    assert stat.S_IMODE((tmp_path / "new" / "cri.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    await server.start()
    await server.stop(0)


async def test_a_second_server_is_refused_even_before_the_first_has_started(tmp_path: Path) -> None:
    server = listener.bound(tmp_path / "cri.sock")
    with pytest.raises(ConfigError, match="another server listens there"):
        listener.bound(tmp_path / "cri.sock")
    await server.start()
    await server.stop(0)


def test_a_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/cri\.sock: its directory cannot be created"):
        listener.bound(tmp_path / "file" / "cri.sock")


def test_a_server_starts_without_what_only_some_nodes_need() -> None:
    script = "import sys; from runtime.server import app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"yaml", "runtime.lookups.cdi_yaml"} & set(done.stdout.decode().split())


def test_the_socket_is_bound_before_the_larger_modules_are_loaded() -> None:
    script = "import sys; from runtime.server import listener; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"generated.cri.api_pb2", "runtime.server.app"} & set(done.stdout.decode().split())
