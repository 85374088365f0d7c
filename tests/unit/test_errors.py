"""Errors: one kind for each code, and the translation of containerd's errors."""

from __future__ import annotations

import grpc
import pytest
from grpc import aio

from runtime import errors
from runtime.errors import CriError, InvalidArgument, Unavailable, Unknown, Violation


def rpc_error(code: grpc.StatusCode, details: str = "why") -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details)


def test_every_kind_has_a_code_of_its_own() -> None:
    kinds = CriError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("kind", CriError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_a_code_of_containerd_is_kept(kind: type[CriError]) -> None:
    made = errors.from_rpc(rpc_error(kind.code), "do it")
    assert type(made) is kind
    assert str(made) == "cannot do it: why"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.ABORTED, Unavailable),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidArgument),
        (grpc.StatusCode.DATA_LOSS, Unknown),
    ],
)
def test_a_code_without_a_kind_gets_the_nearest(
    code: grpc.StatusCode, kind: type[CriError]
) -> None:
    assert type(errors.from_rpc(rpc_error(code), "do it")) is kind


def test_an_error_without_a_message_names_its_code() -> None:
    made = errors.from_rpc(rpc_error(grpc.StatusCode.NOT_FOUND, ""), "do it")
    assert "NOT_FOUND" in str(made)


@pytest.mark.parametrize("said", ["Deadline Exceeded", "Stream removed (Deadline Exceeded)"])
def test_a_deadline_of_ours_says_who_did_not_answer(said: str) -> None:
    error = rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, said)
    late = "containerd, or the shim that it asked, did not answer in time"
    assert str(errors.from_rpc(error, "do it")) == f"cannot do it: {late}"
    assert errors.in_words(error) == f"DEADLINE_EXCEEDED: {late}"


def test_a_timeout_has_no_text_but_its_kind() -> None:
    assert errors.in_words(TimeoutError()) == "TimeoutError"


def test_all_violations_are_reported_together() -> None:
    made = InvalidArgument.from_violations(
        [Violation("a.b", "required", "must be set"), Violation("c", "range", "must be 0 to 5")]
    )
    assert str(made) == "a.b: must be set; c: must be 0 to 5"


def test_the_field_leads_the_message() -> None:
    assert str(InvalidArgument("no", field="config.x")) == "config.x: no"
