"""Which of the images under one name is for this host: the walk through an index.

An index may name indexes, and entries may not say their platform; then the config of each candidate
decides. The walk asks for as few documents as it can, never goes round in circles and is bounded in
depth and number. It is the same for a registry at a pull and for the content store afterwards, so
what was chosen once is chosen again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from runtime.errors import FailedPrecondition, NotFound
from runtime.images.manifest import Config, Descriptor, Index, Manifest
from runtime.images.platforms import Platform, rank

DEPTH_LIMIT: Final = 8
"""Indexes below each other; builders nest two."""
DOCUMENT_LIMIT: Final = 128
"""Documents below the first that one walk may ask for."""

ReadDocument: TypeAlias = Callable[[Descriptor], Awaitable[Index | Manifest]]
"""The document of an index's entry; NotFound when it is not there."""
ReadConfig: TypeAlias = Callable[[Descriptor], Awaitable[Config]]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An entry that may lead to an image for the host."""

    place: int
    descriptor: Descriptor
    rank: int | None
    """How well the platform that it names runs here; None when it names none."""


async def choose(
    top: Index, host: Platform, read: ReadDocument, read_config: ReadConfig
) -> Manifest:
    """The manifest of the image that runs best on the host.

    NotFound lists what there is instead; FailedPrecondition says that the index is not sound.
    """
    walk = _Walk(host, read, read_config)
    found = await walk.search(top, 1)
    if found:
        return found
    if walk.refused and not walk.offered:
        raise walk.refused
    raise NotFound(f"no match for {host}, it has {', '.join(sorted(walk.offered)) or 'no image'}")


class _Walk:
    """One walk, with what it met."""

    def __init__(self, host: Platform, read: ReadDocument, read_config: ReadConfig) -> None:
        self._host = host
        self._read = read
        self._read_config = read_config
        self._seen: set[str] = set()
        self.offered: set[str] = set()
        """The platforms of images that do not run here."""
        self.refused: NotFound | FailedPrecondition | None = None
        """Why the first candidate that names no platform could not be judged."""

    async def search(self, index: Index, depth: int) -> Manifest | None:
        """The best image of an index; None: nothing in it runs here."""
        if depth > DEPTH_LIMIT:
            raise FailedPrecondition(
                f"indexes are nested more than {DEPTH_LIMIT} deep: push a flatter one"
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
        """Those that name a platform come first, the best in front; the others in their order."""
        candidates = []
        for place, (descriptor, platform) in enumerate(index.entries):
            how_well = rank(platform, self._host) if platform else None
            if platform and how_well is None:
                if platform.os != "unknown":  # attestations and the like are no images
                    self.offered.add(str(platform))
            else:
                candidates.append(_Candidate(place, descriptor, how_well))
        return sorted(candidates, key=lambda one: (one.rank is None, one.rank or 0, one.place))

    async def _document(self, candidate: _Candidate) -> Index | Manifest | None:
        """The candidate's document; None when it was seen before or cannot be judged."""
        digest = candidate.descriptor.digest
        if digest in self._seen:
            return None
        self._seen.add(digest)
        if len(self._seen) > DOCUMENT_LIMIT:
            raise FailedPrecondition(
                f"none of the first {DOCUMENT_LIMIT} documents of the index is for {self._host}: "
                "name the platforms in the index"
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
