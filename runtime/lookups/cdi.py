"""CDI devices of this node: the files of the CDI directories, and the device nodes they name.

The directories are checked when a container requests a device. That costs a stat for each file, and
finds what a device plugin has just written. A file is parsed again only if it changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from generated.oci import types
from runtime import regular_files, text
from runtime.documents import DocumentError, convert
from runtime.errors import FailedPrecondition
from runtime.steps import threads
from runtime.transforms import cdi
from runtime.transforms.facts import CdiEdits, DeviceNode

_SUFFIXES: Final = (".json", ".yaml")
_LARGEST: Final = 8 << 20
"""Maximum bytes of a file; those of nodes with many devices have some hundred thousand."""

_FIELD: Final = "config.CDI_devices"
_TYPES: Final = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}

_Signature: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and change time (nanoseconds)."""


class CdiDirectories:
    """The CDI directories; a later one has priority. Its methods block."""

    def __init__(self, directories: Sequence[str], *, enabled: bool = True) -> None:
        self._directories = tuple(directories)
        self._enabled = enabled
        self._read: dict[str, tuple[_Signature, cdi.File]] = {}

    @property
    def directories(self) -> tuple[str, ...]:
        return self._directories

    def look_up(self, names: Sequence[str]) -> CdiEdits:
        """The changes to a container's OCI spec for the devices ``names``.

        Raises FailedPrecondition for a device that no file defines, that two files define, or whose
        device node does not exist on the host.
        """
        if not names:
            return CdiEdits()
        if not self._enabled:
            raise FailedPrecondition(
                f"{', '.join(names)} cannot be injected: CDI is disabled; set enable_cdi = true",
                field=_FIELD,
            )
        edits, unresolved = cdi.edits_of(names, self.files())
        if unresolved:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in unresolved.items())
            raise FailedPrecondition(
                f"unresolvable CDI devices {', '.join(unresolved)} (searched"
                f" {', '.join(self._directories)}): {reasons}",
                field=_FIELD,
            )
        return cdi.injected(edits, [_node(node) for node in edits.device_nodes])

    def files(self) -> list[cdi.File]:
        """The current files of the directories, in the order of priority."""
        now: dict[str, tuple[_Signature, cdi.File]] = {}
        for priority, directory in enumerate(self._directories):
            threads.looking_at(directory)
            for path, signature in _entries(directory):
                known = self._read.get(path)
                if known is None or known[0] != signature:
                    known = (signature, _file(path, priority))
                now[path] = known
        self._read = now
        return [file for _, file in now.values()]


def parse(document: Any) -> cdi.Spec:
    """The spec in a decoded JSON or YAML document.

    Raises DocumentError, which names the key, for anything that the specification does not allow.
    """
    spec = convert(document, cdi.Spec)
    for problem in cdi.problems(spec):
        raise DocumentError(problem)
    return spec


def _entries(directory: str) -> Iterator[tuple[str, _Signature]]:
    """Spec files of one directory, by name; none if it does not exist."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(directory)):
            with contextlib.suppress(OSError):  # removed meanwhile
                path = os.path.join(directory, name)
                found = os.stat(path)
                if name.endswith(_SUFFIXES) and stat.S_ISREG(found.st_mode):
                    yield path, (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


def _file(path: str, priority: int) -> cdi.File:
    """The file, or why it cannot be used: one broken file must not hide the devices of others."""
    try:
        return cdi.File(path, priority, parse(_document(path)))
    except OSError as error:
        return cdi.File(path, priority, None, error.strerror or str(error))
    except DocumentError as error:
        return cdi.File(path, priority, None, str(error))


def _document(path: str) -> Any:
    """The decoded file; raises OSError and DocumentError."""
    content = regular_files.read(path, largest=_LARGEST)
    if not path.endswith(".json"):
        from runtime.lookups import cdi_yaml  # a fiftieth of the server's start, on few nodes used

        return cdi_yaml.parsed(content)
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, TypeError, RecursionError) as error:
        raise DocumentError(text.one_line(str(error), 200)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises DocumentError for a duplicate key: readers would disagree about its value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DocumentError(f"the key {key!r} occurs twice in one object")
        found[key] = value
    return found


def _node(node: cdi.Node) -> tuple[DeviceNode, str]:
    """The device node, with the host's type and numbers if the file has none, and what the cgroup
    allows."""
    kind: str = node.type
    major, minor = node.major, node.minor
    if not kind or (not major and kind != "p"):
        path = node.host_path or node.path
        threads.looking_at(path)
        try:
            found = os.lstat(path)
        except OSError as error:
            raise FailedPrecondition(
                f"the CDI device node {path} is not on this node: {error.strerror}", field=_FIELD
            ) from error
        of_host = _TYPES.get(stat.S_IFMT(found.st_mode), "")
        if not of_host or kind not in ("", of_host):
            raise FailedPrecondition(
                f"the CDI device node {path} must be of type {kind or 'b, c or p'}, and on this"
                f" node it is {of_host or 'no device'}",
                field=_FIELD,
            )
        kind = of_host
        if not major and kind != "p":
            major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    device = types.LinuxDevice(
        path=node.path,
        type=kind,
        major=None if kind == "p" else major,
        minor=None if kind == "p" else minor,
        fileMode=node.file_mode,
        uid=node.uid,
        gid=node.gid,
    )
    return DeviceNode(device, node.host_path or node.path), _permissions(node, kind)


def _permissions(node: cdi.Node, kind: str) -> str:
    """The device rule for the cgroup; none for a FIFO, which device rules do not cover."""
    if node.permissions == "none" or kind not in ("b", "c"):
        return ""
    return node.permissions or "rwm"
