"""The images in containerd's namespace, kept in memory under all of their names.

Records are named by tag, by digest and by image ID; several records make one image. A record whose
content is unusable (not fetched, broken, for another platform) is kept but makes no image.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from runtime.errors import InvalidArgument
from runtime.images import reference as image_reference
from runtime.images.manifest import Config, Descriptor, Index, Manifest, chain_ids
from runtime.transforms.facts import Image

PINNED: Final = {"io.cri-containerd.pinned": "pinned"}

_ID_PREFIX: Final = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of containerd's image store."""

    name: str
    target: Descriptor
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Content:
    """The content of an image, read from its blobs; the same for every record with that target."""

    manifest: Manifest
    config: Config
    size: int
    """Compressed size in bytes of index, manifest, config and layers of this platform."""

    @property
    def image_id(self) -> str:
        return self.manifest.config.digest


def content_of(
    top: Index | Manifest,
    manifest: Manifest,
    config: Config,
    read: Iterable[tuple[Index | Manifest, int]],
) -> Content:
    """The content of a record whose target is ``top``; ``read`` has the documents that were read on
    the way and their bytes, those for other platforms included."""
    size = sum(length for one, length in read if one is top or one is manifest)
    return Content(manifest, config, size + manifest.size)


class ImageCache:
    """Records, the content of their targets, and the images that both make up."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._names: dict[str, set[str]] = {}
        """Records by the digest of their target."""
        self._contents: dict[str, Content] = {}
        """Content by the digest of the target."""
        self._targets: dict[str, set[str]] = {}
        """The digests in `_contents`, by image ID."""
        self._images: dict[str, Image] = {}

    # Lookups

    def images(self) -> list[Image]:
        """Every image."""
        return list(self._images.values())

    def find(self, name: str) -> Image | None:
        """The image with this reference, image ID or unique prefix of an ID."""
        if image_reference.why_invalid(name) is None:
            image = self.image_of(str(image_reference.parse(name)))
            if image:
                return image
        return self._by_id(name)

    def names(self) -> Collection[str]:
        """The names of all records."""
        return self._records.keys()

    def record(self, name: str) -> Record | None:
        """The record with exactly this name."""
        return self._records.get(name)

    def image_of(self, name: str) -> Image | None:
        """The image of the record with exactly this name."""
        record = self._records.get(name)
        content = self._contents.get(record.target.digest) if record else None
        return self._images.get(content.image_id) if content else None

    def content(self, image: Image) -> Content | None:
        """Manifest and config of an image."""
        record = self._records.get(image.reference)
        return self._contents.get(record.target.digest) if record else None

    def has_content(self, target: Descriptor) -> bool:
        """Whether the content of records with this target is known."""
        return target.digest in self._contents

    def target_of(self, reference: str) -> Descriptor | None:
        """The image for a complete reference."""
        record = self._records.get(reference)
        return record.target if record else None

    def names_to_remove(self, name: str) -> list[str]:
        """The records to delete in order to remove ``name``: all records of that image, its ID
        last, or a record that makes no image."""
        image = self.find(name)
        if image:
            names = [record.name for record in self._records_of(image.id)]
            return sorted(names, key=lambda name: (name == image.id, name))
        if image_reference.why_invalid(name) is None:
            name = str(image_reference.parse(name))
        return [name] if name in self._records else []

    def _by_id(self, name: str) -> Image | None:
        prefix = _ID_PREFIX.fullmatch(name)
        if not prefix:
            return None
        beginning = "sha256:" + prefix[1]
        found = [image for id_, image in self._images.items() if id_.startswith(beginning)]
        if len(found) > 1:
            raise InvalidArgument(
                f"{name} is a prefix of {len(found)} image IDs: use a longer one",
                field="image.image",
            )
        return found[0] if found else None

    def _records_of(self, image_id: str) -> list[Record]:
        return [
            self._records[name]
            for digest in self._targets.get(image_id, ())
            for name in self._names[digest]
        ]

    # Changes

    def keep(self, record: Record, content: Content | None) -> None:
        """Add or update a record; with ``content`` None, its content is unchanged, or still
        unknown."""
        digest = record.target.digest
        if content:
            self._contents[digest] = content
            self._targets.setdefault(content.image_id, set()).add(digest)
        old = self._records.get(record.name)
        self._records[record.name] = record
        self._names.setdefault(digest, set()).add(record.name)
        if old and old.target.digest != digest:
            self._leave_target(old)
        self._rebuild(digest)

    def drop(self, name: str) -> None:
        """The record was deleted."""
        record = self._records.pop(name, None)
        if record:
            self._leave_target(record)

    def forget_content(self, image: Image) -> None:
        """The image's content turned out to be incomplete: its records make no image any more."""
        for digest in self._targets.pop(image.id, ()):
            del self._contents[digest]
        self._images.pop(image.id, None)

    def _leave_target(self, record: Record) -> None:
        digest = record.target.digest
        names = self._names[digest]
        names.remove(record.name)
        self._rebuild(digest)
        if names:
            return
        del self._names[digest]
        content = self._contents.pop(digest, None)
        if content:
            targets = self._targets[content.image_id]
            targets.remove(digest)
            if not targets:
                del self._targets[content.image_id]

    def _rebuild(self, digest: str) -> None:
        """Rebuild the image that the records with this target belong to."""
        content = self._contents.get(digest)
        if content is None:
            return
        records = self._records_of(content.image_id)
        if records:
            self._images[content.image_id] = self._image(content.image_id, records)
        else:
            self._images.pop(content.image_id, None)

    def _image(self, image_id: str, records: Collection[Record]) -> Image:
        tags = sorted(r.name for r in records if _kind(r.name) == "tag")
        digests = sorted(r.name for r in records if _kind(r.name) == "digest")
        reference = [*tags, *digests, *sorted(r.name for r in records)][0]
        content = self._contents[self._records[reference].target.digest]
        config = content.config
        chain = chain_ids(config.diff_ids)
        return Image(
            id=image_id,
            reference=reference,
            chain_id=chain[-1] if chain else "",
            tags=tuple(tags),
            digests=tuple(digests),
            size=content.size,
            pinned=any(PINNED.items() <= dict(r.labels).items() for r in records),
            user=config.user,
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            env=config.env,
            working_dir=config.working_dir,
            volumes=config.volumes,
            stop_signal=config.stop_signal,
            labels=config.labels,
        )


def _kind(name: str) -> str:
    """The kind of a record's name: ``tag``, ``digest``, or ``other`` for IDs and all else."""
    if image_reference.is_digest(name) or image_reference.why_invalid(name) is not None:
        return "other"
    return "digest" if "@" in name else "tag"
