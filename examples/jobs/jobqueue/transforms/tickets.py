"""Pure functions that the mapping names."""

from __future__ import annotations

from jobqueue_api.jobs import api_pb2
from jobqueue_api.lifecycle import JOBS_JOB_STATE, JobState


def milliseconds(*, seconds: int) -> int | None:
    """The limit of a job; None if it has none."""
    return seconds * 1000 or None


def locked(*, password: str) -> bool:
    """Whether a job has a password."""
    return password != ""


def shown(*, state: JobState) -> api_pb2.JobState:
    """The state that clients see."""
    return JOBS_JOB_STATE[state]
