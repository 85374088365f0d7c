"""The work behind the RPCs; the generated handlers validate, look up and check states before."""

from __future__ import annotations

import itertools

from jobqueue.transforms import facts
from jobqueue_api.jobs import api_pb2
from jobqueue_api.lifecycle import JOB_CREATED, JobEvent, JobState, fire_job
from jobqueue_api.plans import QueuePlan
from jobqueue_api.statuses import queue_response, status_response
from jobqueue_api.ticket import defaults, job_config, types


class Jobs:
    """All jobs, in memory."""

    def __init__(self) -> None:
        self._jobs: dict[str, facts.Job] = {}
        self._tickets: dict[str, types.Ticket] = {}
        self._numbers = itertools.count(1)

    def find(self, prefix: str, field: str = "") -> facts.Job | None:
        """The job with this id, which ``field`` of a request has."""
        return self._jobs.get(prefix)

    def take(self) -> tuple[facts.Job, types.Ticket] | None:
        """The next job for a worker, and its ticket."""
        for job in self._jobs.values():
            if job.state is JobState.QUEUED:
                _fire(job, JobEvent.TAKEN)
                return job, self._tickets[job.id]
        return None

    def end(self, job: facts.Job) -> None:
        """A worker is done with a job."""
        _fire(job, JobEvent.ENDED)

    async def queue(self, plan: QueuePlan) -> api_pb2.QueueResponse:
        job = facts.Job(f"job-{next(self._numbers)}", plan.name, JOB_CREATED)
        ticket = defaults.empty_ticket()
        job_config.apply(plan.config, ticket)
        if plan.locked:
            ticket.labels["locked"] = "yes"
        self._jobs[job.id], self._tickets[job.id] = job, ticket
        return queue_response.read(job=job)

    async def status(
        self, job: facts.Job, request: api_pb2.StatusRequest
    ) -> api_pb2.StatusResponse:
        return status_response.read(job=job)

    async def cancel(
        self, job: facts.Job, request: api_pb2.CancelRequest
    ) -> api_pb2.CancelResponse:
        _fire(job, JobEvent.CANCELLED)
        return api_pb2.CancelResponse()


def _fire(job: facts.Job, event: JobEvent) -> None:
    move = fire_job(job.state, event)
    assert move.to is not None, "no event removes a job"
    job.state = move.to
