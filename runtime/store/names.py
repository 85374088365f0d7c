"""Reserved names of sandboxes and containers, from the start of creation until removal."""

from __future__ import annotations

import time

import structlog

from runtime.errors import FailedPrecondition

log = structlog.get_logger(__name__)


class Names:
    """The holder of each name, so that an attempt that is repeated is not created twice."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[str, float]] = {}

    def reserve(self, name: str, holder: str) -> None:
        """Reserve ``name`` for the ID ``holder``; succeeds if that ID holds it already.

        Raises FailedPrecondition with the holder and the age of the reservation: the kubelet
        repeats an attempt after its own timeout, and an operator then needs to know what is taking
        so long.
        """
        taken = self._holders.setdefault(name, (holder, time.monotonic()))
        if taken[0] != holder:
            age = time.monotonic() - taken[1]
            raise FailedPrecondition(
                f'name "{name}" is reserved for "{taken[0]}" for {age:.0f} s already; '
                "wait for its creation or removal to end, or remove it"
            )

    def adopt(self, name: str, holder: str) -> None:
        """Reserve ``name`` for an existing object, unless another existing object has it.

        If two existing objects have the same name, both must remain visible so that they can be
        stopped and removed; the second is known by its ID only.
        """
        first, _ = self._holders.setdefault(name, (holder, time.monotonic()))
        if first != holder:
            log.error("two objects have the same name", name=name, first=first, second=holder)

    def release(self, name: str, holder: str) -> None:
        """Free the name if the ID ``holder`` has it."""
        if self.holder(name) == holder:
            del self._holders[name]

    def holder(self, name: str) -> str | None:
        """The ID that holds the name."""
        taken = self._holders.get(name)
        return taken[0] if taken else None
