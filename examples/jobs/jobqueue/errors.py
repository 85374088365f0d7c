"""What the generated code raises and reports."""

from __future__ import annotations

from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule of the mapping that a field of a request violates."""

    field: str
    rule: str
    detail: str


class CallError(Exception):
    """Ends a call with its code."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(CallError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(CallError):
    code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(CallError):
    code = grpc.StatusCode.FAILED_PRECONDITION
