"""Which SELinux levels are in use, so that no two pods get the same one.

A level is in use while the process label of a pod or container in the store has it. Nothing is
counted, so nothing can leak: a level becomes free when the last object with it is removed, also
after a restart.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Final

from runtime.errors import ResourceExhausted
from runtime.store.objects import Store
from runtime.transforms import selinux
from runtime.transforms.facts import LabelParts, SelinuxLabels, SelinuxPolicy

DEFAULT_RANGE: Final = 1024
"""How many categories the targeted policy has."""

_TRIES: Final = 64


class SelinuxLevels:
    """Chooses the labels of new pods and containers."""

    def __init__(
        self,
        store: Store,
        policy: SelinuxPolicy | None,
        category_range: int = DEFAULT_RANGE,
        *,
        ignored: Callable[[str], None] = lambda _field: None,
    ) -> None:
        """``policy`` is None without SELinux: then every label is empty, and ``ignored`` counts
        requested fields without effect."""
        self._store = store
        self._policy = policy
        self._range = category_range or DEFAULT_RANGE
        self._ignored = ignored
        self._pending: dict[str, str] = {}
        """Levels of objects that are being created, by id."""

    def reserve(self, object_id: str, options: LabelParts, *, pod_label: str = "") -> SelinuxLabels:
        """The labels of a new object. Its level is in use until ``release``, and afterwards as
        long as the object is in the store.

        A container without options takes those of its pod's ``pod_label``. Raises ResourceExhausted
        if every level is in use.
        """
        if self._policy is None:
            for part in selinux.given_parts(options):
                self._ignored(f"SELinuxOption.{part}")
            return SelinuxLabels()
        options = selinux.inherited(options, pod_label)
        free = "" if options.level else self._free()
        labels = selinux.labels(options, of=self._policy, free_level=free)
        self._pending[object_id] = selinux.level_of(labels.process)
        return labels

    def release(self, object_id: str) -> None:
        """The object was added to the store, or will not be created."""
        self._pending.pop(object_id, None)

    def _free(self) -> str:
        """A level with two categories that no other object has."""
        used = self._used()
        for _ in range(_TRIES):
            first, second = sorted((secrets.randbelow(self._range), secrets.randbelow(self._range)))
            level = _level(first, second)
            if first != second and level not in used:
                return level
        # few are free: check all of them
        for first, second in itertools.combinations(range(self._range), 2):
            level = _level(first, second)
            if level not in used:
                return level
        raise ResourceExhausted(
            f"all SELinux levels with two of {self._range} categories are in use; raise"
            " selinux_category_range, or remove pods"
        )

    def _used(self) -> set[str]:
        return {
            *self._pending.values(),
            *(selinux.level_of(item.metadata.process_label) for item in self._store.sandboxes),
            *(selinux.level_of(item.metadata.process_label) for item in self._store.containers),
        }


def _level(first: int, second: int) -> str:
    return f"s0:c{first},c{second}"
