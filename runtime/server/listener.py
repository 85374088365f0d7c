"""The gRPC server on its unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from grpc import aio

from runtime.config.tables import ConfigError
from runtime.containerd.client import MAX_MESSAGE

GRACE: Final = 10.0
"""Seconds for running calls to finish after SIGTERM."""

_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),
    # The kubelet may send keepalive pings as often as it likes.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]


async def listening(path: Path, add_services: Callable[[aio.Server], None]) -> aio.Server:
    """A started server on the unix socket ``path``, which only its owner can open (mode 0600).

    The socket's directory is created for its owner only, if it is missing.
    Raises ConfigError if another server listens there or the socket cannot be created.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _answers(path):
        raise ConfigError(f"{path}: another server listens there; stop it or use another socket")
    server = aio.server(options=_OPTIONS)
    add_services(server)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix://{path}")
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot listen there: {error}") from error
    finally:
        os.umask(mask)
    await server.start()
    return server


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
