"""How a command ended, and how the error channel reports it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Exited:
    """The command exited by itself, or the attached output ended (code 0)."""

    code: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be run, or its exit could not be observed."""

    reason: str


Outcome: TypeAlias = Exited | Failed


def encoded(outcome: Outcome, protocol: str) -> bytes:
    """The bytes for the error channel: from v4 on a ``metav1.Status`` as JSON.

    Older protocols get the plain message of a failure, and nothing on success.
    """
    status = _status(outcome)
    if protocol.startswith(("v4.", "v5.")):
        return json.dumps(status, separators=(",", ":")).encode()
    return str(status.get("message", "")).encode()


def _status(outcome: Outcome) -> dict[str, object]:
    if isinstance(outcome, Failed):
        return {
            "metadata": {},
            "status": "Failure",
            "message": f"Internal error occurred: {outcome.reason}",
            "reason": "InternalError",
            "details": {"causes": [{"message": outcome.reason}]},
            "code": 500,
        }
    if outcome.code:
        return {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit code {outcome.code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(outcome.code)}]},
        }
    return {"metadata": {}, "status": "Success"}
