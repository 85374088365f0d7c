"""The gRPC server on its unix socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from generated.handlers.older import OLDER
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


def add_older_services(services: Mapping[str, object], to: aio.Server) -> None:
    """Serve the older packages of the CRI too, by the same handlers.

    ``services`` has the servicer of each service by its name without package.
    """
    for name, methods in OLDER.items():
        servicer = services[name.rpartition(".")[2]]
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                getattr(servicer, method),
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
            for method, (request, response) in methods.items()
        }
        to.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
