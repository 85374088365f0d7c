"""The images of containerd's namespace in memory, by every name that they have.

Records are named by tag, by digest and by image id; several records make one image. A record whose
content is unknown (not fetched or broken, another platform) is kept but makes no image.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from runtime.errors import InvalidArgument
from runtime.images import reference as image_reference
from runtime.images.manifest import Config, Descriptor, Manifest, chain_ids
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
    """What an image is, read from its blobs; the same for every record with that target."""

    manifest: Manifest
    config: Config
    size: int
    """Compressed bytes of index, manifest, config and layers of this platform."""

    @property
    def image_id(self) -> str:
        return self.manifest.config.digest


class ImageCache:
    """Records, what their targets contain, and the images that both make."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._names: dict[str, set[str]] = {}
        """Of the records, by the digest of their target."""
        self._contents: dict[str, Content] = {}
        """By the same digest."""
        self._targets: dict[str, set[str]] = {}
        """The digests in `_contents`, by image id."""
        self._images: dict[str, Image] = {}

    # Looking up

    def images(self) -> list[Image]:
        """Every image."""
        return list(self._images.values())

    def find(self, name: str) -> Image | None:
        """The image of a reference, an image id or a unique prefix of one."""
        if image_reference.why_invalid(name) is None:
            image = self.image_of(str(image_reference.parse(name)))
            if image:
                return image
        return self._by_id(name)

    def names(self) -> Collection[str]:
        """Of all records."""
        return self._records.keys()

    def record(self, name: str) -> Record | None:
        """The record of exactly this name."""
        return self._records.get(name)

    def image_of(self, name: str) -> Image | None:
        """The image that the record of exactly this name belongs to."""
        record = self._records.get(name)
        content = self._contents.get(record.target.digest) if record else None
        return self._images.get(content.image_id) if content else None

    def content(self, image: Image) -> Content | None:
        """Manifest and config of an image."""
        record = self._records.get(image.reference)
        return self._contents.get(record.target.digest) if record else None

    def has_content(self, target: Descriptor) -> bool:
        """Whether it is known what a record with this target contains."""
        return target.digest in self._contents

    def target_of(self, reference: str) -> Descriptor | None:
        """What a complete reference names here."""
        record = self._records.get(reference)
        return record.target if record else None

    def names_to_remove(self, name: str) -> list[str]:
        """The records to delete so that what ``name`` names is gone: those of an image, that of its
        id last, or else a record that makes none."""
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
                f"{name} is the beginning of {len(found)} image ids: give more of it",
                field="image.image",
            )
        return found[0] if found else None

    def _records_of(self, image_id: str) -> list[Record]:
        return [
            self._records[name]
            for digest in self._targets.get(image_id, ())
            for name in self._names[digest]
        ]

    # Changing

    def keep(self, record: Record, content: Content | None) -> None:
        """Take a record as it is now; ``content`` None: as known, or unknown still."""
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
        """The record is gone."""
        record = self._records.pop(name, None)
        if record:
            self._leave_target(record)

    def forget_content(self, image: Image) -> None:
        """The image's content turned out to be incomplete: its records make no image."""
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
        """Make anew the image that the records with this target belong to."""
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
    """What a record's name is: ``tag``, ``digest`` or (an id, or something foreign) ``other``."""
    if image_reference.is_digest(name) or image_reference.why_invalid(name) is not None:
        return "other"
    return "digest" if "@" in name else "tag"
