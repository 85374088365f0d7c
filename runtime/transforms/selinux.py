"""SELinux labels of processes and files: user:role:type:level.

The policy's own labels come from its contexts file (``lxc_contexts``); a request overrides parts of
them. Everything here is pure: `runtime.lookups.selinux` reads the policy and labels files,
`runtime.store.selinux_levels` chooses levels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from runtime.errors import InvalidArgument
from runtime.transforms.facts import LabelParts, SelinuxLabels, SelinuxPolicy

_LEVEL: Final = re.compile(r"s\d(-s\d)?(:c\d{1,4}(\.c\d{1,4})?(,c\d{1,4}(\.c\d{1,4})?)*)?")
_FIELD: Final = "config.linux.security_context.selinux_options"
_VM_SHIM: Final = "io.containerd.kata"


@dataclass(frozen=True, slots=True)
class Context:
    """A label in its parts."""

    user: str
    role: str
    type: str
    level: str = ""
    """Sensitivity and categories, as in s0:c1,c2; "" for a policy without levels."""

    def __str__(self) -> str:
        return ":".join(filter(None, (self.user, self.role, self.type, self.level)))


def parse(label: str) -> Context | None:
    """The parts of ``label``; None if it is not a label."""
    parts = label.split(":", 3)
    return Context(*parts) if len(parts) >= 3 and all(parts[:3]) else None


def policy(contexts: str) -> SelinuxPolicy:
    """The labels in the text of a contexts file: lines such as ``process = "u:r:t:l"``."""
    found: dict[str, str] = {}
    for line in contexts.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            found[key.strip()] = value.strip().strip('"')
    process = found.get("process", "")
    return SelinuxPolicy(
        process=process,
        file=found.get("file", ""),
        kvm_process=found.get("kvm_process", process),
    )


def requested(*, user: str, role: str, type: str, level: str) -> LabelParts:
    """The parts of the label that a request sets.

    Raises InvalidArgument for an invalid level, and for a part with a colon or white space, which
    would change the other parts.
    """
    if level and not _LEVEL.fullmatch(level):
        raise InvalidArgument(
            f"must be a level such as s0 or s0:c1,c2, not {level!r}", field=f"{_FIELD}.level"
        )
    for name, part in {"user": user, "role": role, "type": type}.items():
        if re.search(r"[:\s]", part):
            raise InvalidArgument(
                f"must not have a colon or white space: {part!r}", field=f"{_FIELD}.{name}"
            )
    return LabelParts(user, role, type, level)


def given_parts(options: LabelParts) -> list[str]:
    """The names of the parts that a request sets."""
    parts = {
        "user": options.user,
        "role": options.role,
        "type": options.type,
        "level": options.level,
    }
    return [name for name, part in parts.items() if part]


def inherited(options: LabelParts, pod_label: str) -> LabelParts:
    """The options of a container: its own or, if it has none, the pod's label, so that the
    containers of a pod share a level."""
    pod = parse(pod_label)
    if options != LabelParts() or pod is None:
        return options
    return LabelParts(user=pod.user, role=pod.role, type=pod.type, level=pod.level)


def labels(options: LabelParts, *, of: SelinuxPolicy, free_level: str) -> SelinuxLabels:
    """The labels of a process and of its files: the policy's, overridden by the parts in
    ``options``.

    ``free_level`` is for a policy with levels and options without one. Files get the user and the
    level of the process, so that it can use them, but never its type.
    """
    process, file = parse(of.process), parse(of.file)
    if process is None:
        return SelinuxLabels()
    level = options.level or (free_level if process.level else "")
    process = Context(
        user=options.user or process.user,
        role=options.role or process.role,
        type=options.type or process.type,
        level=level,
    )
    if file is None:
        return SelinuxLabels(process=str(process))
    file = replace(file, user=options.user or file.user, level=level)
    return SelinuxLabels(process=str(process), mount=str(file))


def level_of(label: str) -> str:
    """The level of a label; "" if it has none."""
    context = parse(label)
    return context.level if context else ""


def process_label(
    *, label: str, privileged: bool, runtime_type: str, policy: SelinuxPolicy | None
) -> str | None:
    """The label of the process: none for a privileged one, and the policy's type for virtual
    machines if a VM runs instead of the process."""
    context = parse(label)
    if policy is None or privileged or context is None:
        return None
    machine = parse(policy.kvm_process)
    if _VM_SHIM in runtime_type and machine is not None:
        return str(replace(context, type=machine.type))
    return label


def mount_label(*, mount_label: str) -> str | None:
    """The label of the mounts; None without SELinux."""
    return mount_label or None


def context_options(label: str) -> list[str]:
    """The mount option that gives all files of a file system this label; none without one."""
    return [f'context="{label}"'] if label else []
