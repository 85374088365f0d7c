"""The gRPC server on its unix socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from grpc import aio

from runtime.config.tables import ConfigError
from runtime.containerd.limits import MAX_MESSAGE

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


def bound(path: Path) -> aio.Server:
    """A server without services on the unix socket ``path``, which only its owner can open (mode
    0600). Called in the event loop; the caller adds the services and starts it.

    The kernel accepts connections from now on, and clients wait for the server's start. A client
    that found no socket would wait for its back-off instead, a second or more.

    The socket's directory is created for its owner only, if it is missing.
    Raises ConfigError if another server listens there or the socket cannot be created.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: its directory cannot be created: {error.strerror}") from error
    if is_served(path):
        raise ConfigError(f"{path}: another server listens there; stop it or use another socket")
    server = aio.server(options=_OPTIONS)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix://{path}")
    except RuntimeError as error:
        raise ConfigError(f"{path}: cannot listen there: {error}") from error
    finally:
        os.umask(mask)
    return server


def is_served(path: Path) -> bool:
    """Whether a process listens on the socket; a killed one leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
