"""Objects of one kind by ID, and by any unique prefix of it, as the CRI allows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from runtime.errors import InvalidArgument


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


class Index(Generic[T]):
    """Objects by ID and by any unique prefix of it."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._by_id: dict[str, T] = {}
        self._ids: list[str] = []

    def __iter__(self) -> Iterator[T]:
        """A snapshot of all objects; objects may be removed while iterating."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, exact_id: str) -> T | None:
        """The object with exactly this ID."""
        return self._by_id.get(exact_id)

    def find(self, prefix: str, field: str = "") -> T | None:
        """The only object whose ID begins with ``prefix``; None if there is none.

        Raises InvalidArgument for an empty prefix and for one that matches several; ``field`` is
        the field of the request that has the prefix.
        """
        exact = self._by_id.get(prefix)
        if exact is not None:
            return exact
        if not prefix:
            raise InvalidArgument(
                f"the {self._noun} ID is empty; use an ID or a prefix of one", field=field
            )
        at = bisect_left(self._ids, prefix)
        fitting = [name for name in self._ids[at : at + 2] if name.startswith(prefix)]
        if len(fitting) > 1:
            raise InvalidArgument(
                f'more than one {self._noun} ID begins with "{prefix}"; use a longer prefix',
                field=field,
            )
        return self._by_id[fitting[0]] if fitting else None

    def _insert(self, item: T) -> None:
        if item.id in self._by_id:
            raise ValueError(f"the {self._noun} {item.id} already exists")
        self._by_id[item.id] = item
        insort(self._ids, item.id)

    def _drop(self, item: T) -> None:
        if self._by_id.pop(item.id, None) is not None:
            del self._ids[bisect_left(self._ids, item.id)]
