"""SELinux on this node: whether it is enabled, its policy's labels, and the labelling of files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from runtime import regular_files
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.linux import mountinfo
from runtime.steps import threads
from runtime.transforms import selinux
from runtime.transforms.facts import (
    MountSource,
    RequestedMount,
    SandboxFiles,
    SelinuxPolicy,
    Volume,
)

log = structlog.get_logger(__name__)

_ATTRIBUTE: Final = "security.selinux"
_OWN_LABEL: Final = Path("/proc/self/attr/current")

_NEVER_RELABELED: Final = frozenset(
    f"/{name}"
    for name in (
        *("", "bin", "boot", "dev", "etc", "etc/passwd", "etc/pki", "etc/shadow", "home", "lib"),
        *("lib64", "media", "opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr"),
        *("var", "var/lib", "var/log"),
    )
)
"""Directories of the node itself: with a container's label, the node's services would fail."""


def probe(
    mounts: Sequence[mountinfo.Mount], *, root: str = "/", own_label: Path = _OWN_LABEL
) -> SelinuxPolicy | None:
    """The labels of the node's policy; None if the kernel has no SELinux, or no policy is loaded.

    ``root`` is where the node's files are.
    """
    if not any(mount.kind == "selinuxfs" for mount in mounts):
        return None
    try:
        current = own_label.read_text(errors="replace").rstrip("\0\n")
    except OSError:
        return None
    if current == "kernel":  # the label of every process before a policy is loaded
        return None
    for path in _contexts_files(Path(root)):
        with contextlib.suppress(OSError):
            return selinux.policy(_text(path))
    log.warning("SELinux is enabled, and its policy has no contexts for containers: no labels")
    return SelinuxPolicy()


def _contexts_files(root: Path) -> list[Path]:
    """Files with the labels of containers; the first that exists is used."""
    kind = "targeted"
    with contextlib.suppress(OSError):
        for line in _text(root / "etc/selinux/config").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "SELINUXTYPE" and value.strip():
                kind = value.strip().strip('"')
    return [
        root / "usr/share/containers/selinux/contexts",
        root / "etc/selinux" / kind / "contexts/lxc_contexts",
    ]


def _text(path: Path) -> str:
    return regular_files.read(path).decode(errors="replace")


def relabel_mounts(
    mounts: Sequence[RequestedMount], sources: Sequence[MountSource], label: str
) -> None:
    """Give the sources of mounts that request relabelling the label of the container's files.

    Raises InvalidArgument for a directory that the node itself uses.
    """
    for index, (mount, source) in enumerate(zip(mounts, sources, strict=True)):
        if mount.relabel:
            field = f"config.mounts[{index}].selinux_relabel"
            if os.path.normpath(source.path) in _never_relabeled():
                raise InvalidArgument(
                    f"{source.path} cannot be relabeled, because the node itself uses it; mount a"
                    " directory below it",
                    field=field,
                )
            relabel(source.path, label, field=field)


def relabel_files(files: SandboxFiles, label: str) -> None:
    """The same for the pod's files; the node's own /dev/shm keeps its label."""
    for path in (files.hostname, files.hosts, files.resolv_conf, files.shm):
        if path and path != "/dev/shm":
            relabel(path, label)


def relabel_volumes(volumes: Sequence[Volume], label: str) -> None:
    """The same for the directories of the image's volumes."""
    for volume in volumes:
        relabel(volume.host_path, label)


def relabel(path: str, label: str, *, field: str | None = None) -> None:
    """Label ``path`` and everything below it; ``path`` itself last.

    If ``path`` has the label already, only files with another label are changed. Files that are
    removed meanwhile are skipped, and so are file systems that are read-only, such as an image, or
    have no labels. Raises FailedPrecondition for any other failure.
    """
    only_differing = _label(path) == label
    threads.looking_at(path)
    try:
        for directory, names, files in os.walk(path):
            threads.looking_at(directory)
            for name in (*names, *files):
                _set(os.path.join(directory, name), label, only_differing)
        _set(path, label, only_differing)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EROFS):
            raise FailedPrecondition(
                f"cannot give {error.filename or path} the SELinux label {label}: {error.strerror}",
                field=field,
            ) from error


def _set(path: str, label: str, only_differing: bool) -> None:
    if only_differing and _label(path) == label:
        return
    with contextlib.suppress(FileNotFoundError):
        os.setxattr(path, _ATTRIBUTE, label.encode(), follow_symlinks=False)


def _label(path: str) -> str:
    """The label of a file; "" if it has none."""
    try:
        return os.getxattr(path, _ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _never_relabeled() -> frozenset[str]:
    home = os.environ.get("HOME")
    return _NEVER_RELABELED | {os.path.normpath(home)} if home else _NEVER_RELABELED
