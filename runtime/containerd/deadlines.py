"""The deadline of every containerd call: one table, applied where the stubs are created.

A call that is not in this table cannot be made. A call that exceeds its deadline fails with
DEADLINE_EXCEEDED but may still take effect in the daemon, so its caller must query the state before
deciding anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_ANSWER: Final = 10.0
"""Seconds for what the daemon or a shim answers from memory or from its database."""

_PROBE: Final = 5.0
"""Seconds for introspection: a daemon that does not respond in time is considered down."""

_DRAIN: Final = 30.0
"""Seconds to delete an exec process: the shim waits for anything that still holds its output
open."""

_LIST: Final = 60.0
"""Seconds for a response whose size grows with the node."""

_WORK: Final = 120.0
"""Seconds for a call that starts a process or deletes files: the kubelet's own timeout for most
of its calls. Long, because a call that times out may still take effect."""

_COMMIT: Final = 600.0
"""Seconds to commit an unpacked layer, whose files are counted."""

_UNPACK: Final = 3600.0
"""Seconds to unpack one layer."""

_BLOB: Final = 86400.0
"""Seconds to write one blob; the same as the lifetime of its lease. The write lasts as long as the
download, which has its own limit (``image_pull_progress_timeout``)."""

DEADLINES: Final[Mapping[str, Mapping[str, float | None]]] = {
    "containers": {
        "Get": _ANSWER,
        "List": _LIST,
        "ListStream": _LIST,
        "Create": _WORK,
        "Update": _WORK,
        "Delete": _WORK,
    },
    "content": {
        "Info": _ANSWER,
        "Update": _ANSWER,
        "List": _LIST,
        "Delete": _WORK,
        "Read": _WORK,
        "Status": _ANSWER,
        "ListStatuses": _LIST,
        "Write": _BLOB,
        "Abort": _WORK,
    },
    "diff": {"Apply": _UNPACK, "Diff": _UNPACK},
    "events": {"Publish": _ANSWER, "Forward": _ANSWER, "Subscribe": None},
    "images": {
        "Get": _ANSWER,
        "List": _LIST,
        "Create": _WORK,
        "Update": _WORK,
        "Delete": _WORK,
    },
    "introspection": {"Plugins": _PROBE, "Server": _ANSWER, "PluginInfo": _ANSWER},
    "leases": {
        "Create": _WORK,
        "Delete": _WORK,
        "List": _LIST,
        "AddResource": _ANSWER,
        "DeleteResource": _ANSWER,
        "ListResources": _LIST,
    },
    "sandboxes": {
        "Create": _WORK,
        "Update": _WORK,
        "Delete": _WORK,
        "List": _LIST,
        "Get": _ANSWER,
    },
    "snapshots": {
        "Prepare": _WORK,
        "View": _WORK,
        "Mounts": _ANSWER,
        "Commit": _COMMIT,
        "Remove": _WORK,
        "Stat": _ANSWER,
        "Update": _ANSWER,
        "List": _LIST,
        "Usage": _LIST,
        "Cleanup": _WORK,
    },
    "tasks": {
        "Create": _WORK,
        "Start": _WORK,
        "Delete": _ANSWER,
        "DeleteProcess": _DRAIN,
        "Get": _ANSWER,
        "List": _LIST,
        "Kill": _ANSWER,
        "Exec": _ANSWER,
        "ResizePty": _ANSWER,
        "CloseIO": _ANSWER,
        "Pause": _ANSWER,
        "Resume": _ANSWER,
        "ListPids": _ANSWER,
        "Checkpoint": _WORK,
        "Update": _ANSWER,
        "Metrics": _ANSWER,
        "Wait": None,
    },
    "version": {"Version": _PROBE},
}
"""Seconds, by service (as named in `Containerd`) and method; None: no deadline, the call waits
for an event.
"""
