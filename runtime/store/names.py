"""Reserved names of sandboxes and containers, from the start of creation until removal."""

from __future__ import annotations

import time

import structlog

from runtime.errors import FailedPrecondition

log = structlog.get_logger(__name__)


class Names:
    """The holder of each name, so that the same attempt is not created twice."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[str, float]] = {}

    def reserve(self, name: str, holder: str) -> None:
        """Give ``name`` to the id ``holder``; succeeds if the id holds it already.

        Raises FailedPrecondition with the holder and for how long it has had the name: the kubelet
        repeats an attempt after its own timeout, and people then search for what takes so long.
        """
        taken = self._holders.setdefault(name, (holder, time.monotonic()))
        if taken[0] != holder:
            age = time.monotonic() - taken[1]
            raise FailedPrecondition(
                f'name "{name}" is reserved for "{taken[0]}" since {age:.0f} s; '
                "wait for its creation or removal to end, or remove it"
            )

    def adopt(self, name: str, holder: str) -> None:
        """Give ``name`` to an object that exists, unless another one that exists has it.

        If two existing objects have the same name, both must stay visible to be stopped and
        removed; the second is known only by its id.
        """
        first, _ = self._holders.setdefault(name, (holder, time.monotonic()))
        if first != holder:
            log.error("two objects have the same name", name=name, first=first, second=holder)

    def release(self, name: str, holder: str) -> None:
        """Free the name if the id ``holder`` has it."""
        if self.holder(name) == holder:
            del self._holders[name]

    def holder(self, name: str) -> str | None:
        """The id that holds the name."""
        taken = self._holders.get(name)
        return taken[0] if taken else None
