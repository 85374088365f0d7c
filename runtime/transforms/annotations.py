"""Annotations of OCI specs, which shims, tools and other runtimes read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

_SANDBOX = "io.kubernetes.cri.sandbox"
SANDBOX_ID = f"{_SANDBOX}-id"
SANDBOX_NAME = f"{_SANDBOX}-name"
SANDBOX_NAMESPACE = f"{_SANDBOX}-namespace"
SANDBOX_UID = f"{_SANDBOX}-uid"
CONTAINER_NAME = "io.kubernetes.cri.container-name"

_SNAPSHOT_LABELS = "containerd.io/snapshot/"
_SNAPSHOT_REFERENCE = "containerd.io/snapshot.ref"

CHECKPOINT_OF = (
    "org.criu.checkpoint.container.name",
    "io.kubernetes.cri-o.annotations.checkpoint.name",
)
"""Annotations of an image made of a checkpoint, by ``checkpointctl`` and by hand for CRI-O: the
name of the container."""

OWN = frozenset(
    f"io.kubernetes.cri.{name}"
    for name in (
        "container-type",
        "container-name",
        "image-name",
        "podsandbox.image-name",
        "sandbox-id",
        "sandbox-log-directory",
        "sandbox-name",
        "sandbox-namespace",
        "sandbox-uid",
    )
)
"""Annotations written by this server about containers and pods. Shims and agents trust them, so a
pod's annotation never overrides one, even if the handler passes it through."""


def passed_to_sandbox(
    *, annotations: Mapping[str, str], pod_annotations: Iterable[str]
) -> dict[str, str]:
    """The pod's annotations that match the handler's patterns, except those of this server."""
    return _matching(annotations, pod_annotations)


def passed_to_container(
    *,
    annotations: Mapping[str, str],
    container_annotations: Iterable[str],
    of_pod: Mapping[str, str],
    pod_annotations: Iterable[str],
) -> dict[str, str]:
    """The same for a container; its own annotations take precedence over the pod's."""
    return _matching(of_pod, pod_annotations) | _matching(annotations, container_annotations)


def is_checkpoint(image_annotations: Mapping[str, str]) -> bool:
    """Whether an image was made of a checkpoint, by its annotations."""
    return any(image_annotations.get(key) for key in CHECKPOINT_OF)


def of_restored(
    *,
    annotations: Mapping[str, str],
    of_checkpoint: Mapping[str, str],
    name: str,
    checkpointed_at: str,
) -> dict[str, str]:
    """The annotations of a restored container: those in its checkpoint, except what gives it
    devices or classes; over them those of the request, and what says that it was restored."""
    kept = {
        key: value
        for key, value in of_checkpoint.items()
        if not key.startswith("cdi.k8s.io") and "resources.beta.kubernetes.io" not in key
    }
    about = {"restored": "true", "checkpointedAt": checkpointed_at, "checkpointImage": name}
    return {**kept, **annotations, **about}


def sandbox_resources(
    *,
    cpu_period: int | None,
    cpu_quota: int | None,
    cpu_shares: int | None,
    memory_limit_in_bytes: int | None,
) -> dict[str, str]:
    """The sum of the pod's resources, for runtimes that size a virtual machine by it; nothing if
    the request has none."""
    sums = {
        "cpu-period": cpu_period,
        "cpu-quota": cpu_quota,
        "cpu-shares": cpu_shares,
        "memory": memory_limit_in_bytes,
    }
    return {f"{_SANDBOX}-{name}": str(sum_) for name, sum_ in sums.items() if sum_ is not None}


def image_name(*, user_specified_image: str, image_name: str) -> str:
    """The image as written by the pod's author, else as containerd stores it."""
    return user_specified_image or image_name


def _matching(annotations: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    matchers = [_matcher(pattern) for pattern in patterns]
    return {
        key: value
        for key, value in annotations.items()
        if key not in OWN and any(matcher.fullmatch(key) for matcher in matchers)
    }


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> re.Pattern[str]:
    """A pattern of Go's path.Match, in which * and ? do not match a slash.

    A pattern that is malformed in Go matches nothing.
    """
    parts, rest = [], pattern
    while rest:
        head, rest = rest[0], rest[1:]
        if head in "*?":
            parts.append("[^/]*" if head == "*" else "[^/]")
        elif head == "[":
            found = re.match(r"(\^?)((?:\\.|[^\]\\])+)\]", rest)
            if found is None:
                return re.compile(r"(?!)")
            parts.append(f"[{found[1]}{found[2].replace('[', chr(92) + '[')}]")
            rest = rest[found.end() :]
        elif head == "\\":
            if not rest:
                return re.compile(r"(?!)")
            parts.append(re.escape(rest[0]))
            rest = rest[1:]
        else:
            parts.append(re.escape(head))
    return re.compile("".join(parts), re.DOTALL)


def snapshot_labels(*, annotations: Mapping[str, str]) -> dict[str, str]:
    """The pod annotations that snapshotters understand, as in the built-in plugin."""
    return {
        key: value
        for key, value in annotations.items()
        if key.startswith(_SNAPSHOT_LABELS) or key == _SNAPSHOT_REFERENCE
    }
