"""Joins the generated service and the hand-written work."""

from __future__ import annotations

from grpc import aio

from jobqueue.frame import Frame
from jobqueue.jobs.operations import Jobs
from jobqueue_api.handlers.jobs import Jobs as Service
from jobqueue_api.jobs import api_pb2_grpc


async def serve(address: str) -> aio.Server:
    """A started server."""
    jobs, server = Jobs(), aio.server()
    service = Service(frame=Frame(), find_job=jobs, jobs=jobs)
    api_pb2_grpc.add_JobsServicer_to_server(service, server)
    server.add_insecure_port(address)
    await server.start()
    return server
