"""Labels of containerd's container records, by which this server finds its objects again."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.errors import InvalidArgument

KIND = "io.cri-containerd.kind"
"""The kind of a container, with the same key and values as in the built-in plugin."""
SANDBOX = "sandbox"
CONTAINER = "container"

_MAX_LENGTH = 4096
"""Of key and value together; containerd refuses more."""

_RESERVED = ("containerd.io/", "io.cri-containerd")
"""Labels that an image may not set for its containers: they would control containerd and this
server."""


def sandbox_labels(*, labels: Mapping[str, str], image_labels: Mapping[str, str]) -> dict[str, str]:
    """The pod's labels, which override the pause image's, and the kind."""
    return _labels(labels, image_labels, SANDBOX)


def container_labels(
    *, labels: Mapping[str, str], image_labels: Mapping[str, str]
) -> dict[str, str]:
    """The container's labels, which override its image's, and the kind."""
    return _labels(labels, image_labels, CONTAINER)


def _labels(
    labels: Mapping[str, str], image_labels: Mapping[str, str], kind: str
) -> dict[str, str]:
    if "" in labels:
        raise InvalidArgument("a label must have a key", field="config.labels")
    too_long = [key for key, value in labels.items() if not _fits(key, value)]
    if too_long:
        raise InvalidArgument(
            f"key and value together must be {_MAX_LENGTH} bytes or less",
            field=f"config.labels[{too_long[0][:64]}]",
        )
    # an image's author cannot know the limits, so labels that exceed them are omitted
    from_image = {
        key: value
        for key, value in image_labels.items()
        if not key.startswith(_RESERVED) and _fits(key, value)
    }
    return {**from_image, **labels, KIND: kind}


def _fits(key: str, value: str) -> bool:
    return key != "" and len(key.encode()) + len(value.encode()) <= _MAX_LENGTH
