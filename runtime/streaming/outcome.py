"""How a command ended, in the words of the error channel."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended by itself, or attached output did (code 0)."""

    code: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The command could not be run, or could not be followed to its end."""

    reason: str


Outcome: TypeAlias = Exited | Failed


def encoded(outcome: Outcome, protocol: str) -> bytes:
    """What goes to the error channel: from v4 on a ``metav1.Status`` in JSON.

    Before it, the bare message of a failure, and nothing when all went well.
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
