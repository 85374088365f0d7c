"""Choose the image for this host from an index.

An index may contain indexes, and its entries need not have a platform; then the config of each
candidate decides. The walk reads as few documents as possible, detects cycles, and is limited in
depth and number. It is the same for a registry during a pull and for the content store afterwards,
so both choose the same image.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from runtime.errors import FailedPrecondition, NotFound
from runtime.images.manifest import Config, Descriptor, Index, Manifest
from runtime.images.platforms import Platform, rank

DEPTH_LIMIT: Final = 8
"""Maximum nesting of indexes; builders nest two."""
DOCUMENT_LIMIT: Final = 128
"""Maximum number of documents that one walk reads after the first."""

ReadDocument: TypeAlias = Callable[[Descriptor], Awaitable[Index | Manifest]]
"""Reads the document of an index's entry; raises NotFound if it does not exist."""
ReadConfig: TypeAlias = Callable[[Descriptor], Awaitable[Config]]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An entry that may lead to an image for the host."""

    place: int
    descriptor: Descriptor
    rank: int | None
    """The rank of its stated platform on this host; None if it states none."""


async def choose(
    top: Index, host: Platform, read: ReadDocument, read_config: ReadConfig
) -> Manifest:
    """The manifest of the image that runs best on the host.

    Raises NotFound with the platforms that exist instead; FailedPrecondition if the index is
    invalid.
    """
    walk = _Walk(host, read, read_config)
    found = await walk.search(top, 1)
    if found:
        return found
    if walk.refused and not walk.offered:
        raise walk.refused
    raise NotFound(f"no image for {host}; available: {', '.join(sorted(walk.offered)) or 'none'}")


class _Walk:
    """One walk, and what it found."""

    def __init__(self, host: Platform, read: ReadDocument, read_config: ReadConfig) -> None:
        self._host = host
        self._read = read
        self._read_config = read_config
        self._seen: set[str] = set()
        self.offered: set[str] = set()
        """The platforms of images that do not run here."""
        self.refused: NotFound | FailedPrecondition | None = None
        """Why the first candidate without a platform could not be checked."""

    async def search(self, index: Index, depth: int) -> Manifest | None:
        """The best image of an index; None if nothing in it runs here."""
        if depth > DEPTH_LIMIT:
            raise FailedPrecondition(
                f"indexes are nested more than {DEPTH_LIMIT} deep: push a flatter index"
            )
        silent: list[tuple[int, Manifest]] = []
        for candidate in self._candidates(index):
            document = await self._document(candidate)
            if isinstance(document, Index):
                found = await self.search(document, depth + 1)
                if found:
                    return found
            elif document and candidate.rank is not None:
                return document
            elif document:
                place = await self._rank_by_config(document)
                if place == 0:
                    return document
                if place is not None:
                    silent.append((place, document))
        return min(silent, key=lambda one: one[0])[1] if silent else None

    def _candidates(self, index: Index) -> list[_Candidate]:
        """Candidates with a platform come first, the best in front; the others keep their order."""
        candidates = []
        for place, (descriptor, platform) in enumerate(index.entries):
            how_well = rank(platform, self._host) if platform else None
            if platform and how_well is None:
                if platform.os != "unknown":  # attestations and the like are not images
                    self.offered.add(str(platform))
            else:
                candidates.append(_Candidate(place, descriptor, how_well))
        return sorted(candidates, key=lambda one: (one.rank is None, one.rank or 0, one.place))

    async def _document(self, candidate: _Candidate) -> Index | Manifest | None:
        """The candidate's document; None if it was seen before or cannot be checked."""
        digest = candidate.descriptor.digest
        if digest in self._seen:
            return None
        self._seen.add(digest)
        if len(self._seen) > DOCUMENT_LIMIT:
            raise FailedPrecondition(
                f"none of the first {DOCUMENT_LIMIT} documents of the index is for {self._host}: "
                "state the platforms in the index"
            )
        try:
            return await self._read(candidate.descriptor)
        except (NotFound, FailedPrecondition) as error:
            if candidate.rank is not None:
                raise
            self.refused = self.refused or error
            return None

    async def _rank_by_config(self, manifest: Manifest) -> int | None:
        try:
            platform = (await self._read_config(manifest.config)).platform
        except (NotFound, FailedPrecondition) as error:
            self.refused = self.refused or error
            return None
        place = rank(platform, self._host)
        if place is None:
            self.offered.add(str(platform))
        return place
