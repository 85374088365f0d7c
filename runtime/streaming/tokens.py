"""One-time tokens: hold what a CRI call requested until its client connects."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from runtime.errors import ResourceExhausted

LIFETIME: Final = 60.0
"""Seconds that a client has to use its URL."""
LIMIT: Final = 1000
"""Tokens that may be outstanding at once."""
_BYTES: Final = 24

T = TypeVar("T")


class Tokens(Generic[T]):
    """Values by token; each can be taken once, within `LIFETIME`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[float, T]] = {}
        """Ordered by expiry."""

    def issue(self, value: T) -> str:
        """A new token of 192 bits; raises ResourceExhausted if `LIMIT` tokens are outstanding."""
        self._expire()
        if len(self._waiting) >= LIMIT:
            raise ResourceExhausted(
                f"{LIMIT} streaming URLs are waiting for their clients; each expires after "
                f"{LIFETIME:.0f} s, try again then"
            )
        token = secrets.token_urlsafe(_BYTES)
        self._waiting[token] = (self._clock() + LIFETIME, value)
        return token

    def look(self, token: str) -> T | None:
        """The value; None for a token that is unknown, used or expired."""
        self._expire()
        found = self._waiting.get(token)
        return found[1] if found else None

    def take(self, token: str) -> None:
        """Invalidate the token."""
        self._waiting.pop(token, None)

    def _expire(self) -> None:
        now = self._clock()
        while self._waiting:
            token, (end, _) = next(iter(self._waiting.items()))
            if end > now:
                return
            del self._waiting[token]
