"""What paths of the mapping may begin with: one class for each thing that the server knows."""

from __future__ import annotations

from dataclasses import dataclass

from jobqueue_api.lifecycle import JobState


@dataclass(slots=True)
class Job:
    """One job, in memory."""

    id: str
    name: str
    state: JobState
