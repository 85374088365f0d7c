"""Facts of a container that follow from its request, its pod and its image."""

from __future__ import annotations

import os.path

from runtime.errors import InvalidArgument
from runtime.transforms.facts import Image
from runtime.transforms.paths import why_too_long

_CALL_SECONDS = 120


def reserved_name(
    *, name: str, attempt: int, pod_name: str, pod_namespace: str, pod_uid: str
) -> str:
    """The name that at most one container of the node has, in the built-in plugin's format."""
    return f"{name}_{pod_name}_{pod_namespace}_{pod_uid}_{attempt}"


def log_path(*, log_directory: str, log_path: str) -> str:
    """The log file, in the pod's directory; "" if either is not set: no log is kept.

    Raises InvalidArgument for a path that leaves the directory, because the log keeper writes as
    root, and for one that is too long for a file.
    """
    if not (log_directory and log_path):
        return ""
    directory = os.path.normpath(log_directory)
    below = f"{directory.rstrip('/')}/"
    path = os.path.normpath(f"{below}{log_path}")
    if not path.startswith(below):
        raise InvalidArgument(
            f"must be a file below the pod's log_directory {directory}, not {path}",
            field="config.log_path",
        )
    if problem := why_too_long(path):
        raise InvalidArgument(
            f"{problem}, including the pod's log_directory", field="config.log_path"
        )
    return path


def image_digest(image: Image) -> str:
    """The digest of the manifest or index that ``image.reference`` names; "" if it has none.

    Several repositories may hold the same image under different digests.
    """
    repository, at, digest = image.reference.partition("@")
    if at:
        return digest
    found = repository.rpartition(":")
    named = found[0] if "/" not in found[2] and found[1] else repository
    return next(
        (known.partition("@")[2] for known in image.digests if known.startswith(f"{named}@")), ""
    )


def checkpoint_limit(*, timeout: int) -> int:
    """Seconds that a checkpoint may take: as requested, else the CRI's default for a call."""
    return timeout or _CALL_SECONDS


def command_limit(*, timeout: int) -> int | None:
    """Seconds that a command may take; None if it may run forever."""
    return timeout or None


def closes_input(*, stdin_once: bool, tty: bool) -> bool:
    """Whether the container's input ends with the first client's; never on a terminal, because a
    user may attach again."""
    return stdin_once and not tty
