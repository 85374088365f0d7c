"""Block I/O and RDT classes, which annotations request by name.

Classes are defined in files of containerd's own configuration, which only the built-in plugin can
read. As there, a class is an error without such a file, unless the configuration ignores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from generated.oci import types
from runtime.errors import FailedPrecondition

_OF_CONTAINER: Final = "io.kubernetes.cri.{}-class"
_OF_POD: Final = "{}.resources.beta.kubernetes.io/{}"


def requested(
    kind: str, name: str, annotations: Mapping[str, str], of_pod: Mapping[str, str]
) -> tuple[str, str]:
    """The class of the container ``name`` and the annotation that names it: its own, else the pod's
    for this container, else the pod's for all; "" if there is none."""
    own = _OF_CONTAINER.format(kind)
    if own in annotations:
        return annotations[own], f"config.annotations[{own}]"
    for part in (f"container.{name}", "pod"):
        key = _OF_POD.format(kind, part)
        if key in of_pod:
            return of_pod[key], f"sandbox_config.annotations[{key}]"
    return "", ""


def block_io(
    *,
    name: str,
    annotations: Mapping[str, str],
    of_pod: Mapping[str, str],
    ignore_blockio_not_enabled_errors: bool,
) -> types.LinuxBlockIO | None:
    """The limits of the block I/O class: none, because no class is defined.

    Raises FailedPrecondition for a class, unless the configuration ignores it.
    """
    wanted, field = requested("blockio", name, annotations, of_pod)
    if wanted and not ignore_blockio_not_enabled_errors:
        raise FailedPrecondition(
            f"block I/O classes are not enabled, so there is no class {wanted!r}; leave the"
            " annotation out, or set containerd.ignore_blockio_not_enabled_errors = true",
            field=field,
        )
    return None


def intel_rdt(
    *,
    name: str,
    annotations: Mapping[str, str],
    of_pod: Mapping[str, str],
    ignore_rdt_not_enabled_errors: bool,
    injected: types.LinuxIntelRdt | None,
) -> types.LinuxIntelRdt | None:
    """The resctrl group that a CDI device requests; a class has none.

    Raises FailedPrecondition for a class, unless the configuration ignores it.
    """
    wanted, field = requested("rdt", name, annotations, of_pod)
    if wanted and not ignore_rdt_not_enabled_errors:
        raise FailedPrecondition(
            f"RDT classes are not enabled, so there is no class {wanted!r}; leave the annotation"
            " out, or set containerd.ignore_rdt_not_enabled_errors = true",
            field=field,
        )
    return injected
