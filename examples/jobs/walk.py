"""A client walks one job through the server."""

from __future__ import annotations

import asyncio

from grpc import aio

from jobqueue.server import serve
from jobqueue_api.jobs import api_pb2, api_pb2_grpc


async def main() -> None:
    server = await serve("unix:jobs.sock")
    async with aio.insecure_channel("unix:jobs.sock") as channel:
        jobs = api_pb2_grpc.JobsStub(channel)
        try:
            await jobs.Queue(api_pb2.QueueRequest(config={"timeout_seconds": -1}))
        except aio.AioRpcError as error:
            print(error.code().name, error.details())
        config = {"name": "backup", "command": ["tar", "c", "/home"], "timeout_seconds": 60}
        queued = await jobs.Queue(api_pb2.QueueRequest(config=config))
        print(queued.id)
        for _ in range(2):
            status = await jobs.Status(api_pb2.StatusRequest(id=queued.id))
            print(status.name, api_pb2.JobState.Name(status.state))
            await jobs.Cancel(api_pb2.CancelRequest(id="job-7"))
            try:
                await jobs.Cancel(api_pb2.CancelRequest(id=queued.id))
            except aio.AioRpcError as error:
                print(error.code().name, error.details())
    await server.stop(None)


asyncio.run(main())
