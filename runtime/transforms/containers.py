"""Facts of a container that follow from its request, its pod and its image."""

from __future__ import annotations

import os.path

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms.facts import Image


def log_path(pod: api_pb2.PodSandboxConfig, container: api_pb2.ContainerConfig) -> str:
    """The log file, in the pod's directory; "" if either is not set: no log is kept.

    Raises InvalidArgument for a path that leaves the directory: the log keeper writes as root.
    """
    if not (pod.log_directory and container.log_path):
        return ""
    directory = os.path.normpath(pod.log_directory)
    below = f"{directory.rstrip('/')}/"
    path = os.path.normpath(f"{below}{container.log_path}")
    if not path.startswith(below):
        raise InvalidArgument(
            f"must be a file below the pod's log_directory {directory}, not {path}",
            field="config.log_path",
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


def closes_input(*, stdin_once: bool, tty: bool) -> bool:
    """Whether the container's input ends with the first client's; never on a terminal, because a
    user may attach again."""
    return stdin_once and not tty
