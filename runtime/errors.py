"""The errors that a CRI call may end with.

Each kind has its gRPC code; the message names the object or CRI field, and the remedy if there is
one. Hand-written code and transforms raise these; the generated handlers turn them into the status
of the call. What the operating system says that the node lacks, e.g. space on a disk, becomes
UNAVAILABLE; any other exception is a bug and becomes INTERNAL.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import grpc
from grpc import aio

from runtime import text


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a field of a request violates."""

    field: str
    """Path from the request's root, e.g. ``config.linux.resources.cpu_period``."""
    rule: str
    """The rule's name in the mapping, e.g. ``required``."""
    detail: str
    """What is allowed, e.g. ``must be 0 or more, not -5``."""

    def __str__(self) -> str:
        return f"{self.field}: {self.detail}"


class CriError(Exception):
    """Base of all errors of CRI calls; ``field`` is the path of the invalid CRI field.

    The message may repeat external text: it is made one line of valid text.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    word: ClassVar[str] = ""
    """The word that the kubelet looks for at the very beginning of the text, and only under code
    UNKNOWN: for any other code the text it sees begins with ``rpc error: code = …``."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        message = text.one_line(message)
        super().__init__(message)
        self.message = message
        self.field = field

    def inside(self, path: str) -> Self:
        """The same error of a field that is inside the message at ``path``."""
        return type(self)(self.message, field=f"{path}.{self.field}" if self.field else path)

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.word, self.field, self.message)))


class InvalidArgument(CriError):
    """The request itself is invalid: repeating it unchanged cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def from_violations(cls, violations: Sequence[Violation]) -> InvalidArgument:
        """All violations in one message, so that a client can fix them all at once."""
        return cls("; ".join(map(str, violations)))


class NotFound(CriError):
    """The named object does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(CriError):
    """An object with this name or ID exists already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(CriError):
    """The object is in a state that does not allow the call."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unavailable(CriError):
    """Something that the call needs is temporarily unavailable: the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(CriError):
    """A time limit was exceeded, e.g. that of an ExecSync (the kubelet's probes need this code)."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ResourceExhausted(CriError):
    """A limit of size or number was exceeded."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unimplemented(CriError):
    """This server does not implement the call."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Unauthenticated(CriError):
    """A registry refused the credentials."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(CriError):
    """The kernel or containerd refused the operation."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Cancelled(CriError):
    """The client cancelled the call."""

    code = grpc.StatusCode.CANCELLED


class Unknown(CriError):
    """A failure that the request did not cause: containerd, a shim, runc or a plugin failed."""

    code = grpc.StatusCode.UNKNOWN


class RegistryUnavailable(Unknown):
    """No host of a registry could be reached; the kubelet shows it as the pod's reason."""

    word = "RegistryUnavailable"


class RecursiveReadOnlyUnsupported(Unknown):
    """The kernel or the OCI runtime cannot make a mount and all below it read-only."""

    word = "RROUnsupported"


class SignatureValidationFailed(Unknown):
    """An image verifier did not allow an image; the kubelet shows it as the pod's reason."""

    word = "SignatureValidationFailed"


class ImageVolumeMountFailed(Unknown):
    """An image cannot be mounted into a container; the kubelet counts it by the word."""

    word = "ImageVolumeMountFailed"


class Internal(CriError):
    """A bug in this server."""

    code = grpc.StatusCode.INTERNAL


_KIND_OF_CODE: Mapping[grpc.StatusCode, type[CriError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Unavailable,
        DeadlineExceeded,
        ResourceExhausted,
        Unimplemented,
        Unauthenticated,
        PermissionDenied,
        Cancelled,
        Unknown,
        Internal,
    )
} | {
    # containerd returns ABORTED for a lock held by another call; UNAVAILABLE invites a retry.
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
}


_OWN_DEADLINE = frozenset({"Deadline Exceeded", "Stream removed (Deadline Exceeded)"})
"""What gRPC says when the deadline of a call has passed on this side."""


def from_rpc(error: grpc.RpcError, doing: str) -> CriError:
    """The CRI error for an error of a containerd call.

    ``doing`` says what was attempted, as in ``from_rpc(error, "create the task of container c1")``,
    and begins the message. Raise it ``from error``, so that the log keeps the chain.
    """
    kind = _KIND_OF_CODE.get(error.code(), Unknown)
    return kind(f"cannot {doing}: {_said(error)}")


def _said(error: grpc.RpcError) -> str:
    """The message of an error of a containerd call, in words that name who did what."""
    details = str(error.details() or "")
    if details in _OWN_DEADLINE:
        return "containerd, or the shim that it asked, did not answer in time"
    return details or f"containerd returned {error.code().name} without a message"


@contextlib.contextmanager
def named_failures(doing: str, root: Path | str, state: Path | str) -> Iterator[None]:
    """Raise what containerd or a file system of the node fails with as a CriError.

    The message begins with ``doing``, as in ``create container app``. An error of a file system,
    usually a full disk, names the directories of the files in question, ``root`` and ``state``, and
    the file if it is known: it can be one of the node, such as /etc/resolv.conf.
    """
    try:
        yield
    except aio.AioRpcError as error:
        raise from_rpc(error, doing) from error
    except OSError as error:
        if error.errno is None:  # a TimeoutError of asyncio
            raise
        problem = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        raise Unavailable(
            f"cannot {doing}, whose files are below {root} and {state}: {problem}"
        ) from error


def in_words(error: BaseException) -> str:
    """An error for a log line: code and message of containerd, the text of any other, or its kind
    if it has none."""
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {_said(error)}"
    return str(error) or type(error).__name__
