"""The older packages of the CRI on the same socket."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from grpc import aio

from generated.handlers.older import OLDER


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
