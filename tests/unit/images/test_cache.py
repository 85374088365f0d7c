"""The images that records make up, after any sequence of changes, and what a change costs."""

from __future__ import annotations

import random
import time

from runtime.images.cache import Content, ImageCache, Record
from runtime.images.manifest import Config, Descriptor, Manifest
from runtime.images.platforms import Platform


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def record(name: str, target: int) -> Record:
    return Record(name, Descriptor("", digest(target), 1), {})


def content(image: int) -> Content:
    config = Config(diff_ids=(), platform=Platform("linux", "amd64"))
    return Content(Manifest(Descriptor("", digest(image), 1), ()), config, 1)


def test_images_are_what_the_records_make_after_any_changes() -> None:
    """Targets 0 and 1 contain image 100, targets 2 and 3 image 101."""
    chance = random.Random(1)
    cache = ImageCache()
    targets: dict[str, int] = {}
    known: set[int] = set()
    for _ in range(3000):
        name = f"docker.io/library/app:{chance.randrange(6)}"
        match chance.choice(("keep", "keep", "keep unread", "drop", "forget")):
            case "drop":
                cache.drop(name)
                targets.pop(name, None)
            case "forget":
                image = cache.find(name)
                if image:
                    cache.forget_content(image)
                    known -= {0, 1} if image.id == digest(100) else {2, 3}
            case verb:
                target = chance.randrange(4)
                cache.keep(
                    record(name, target), content(100 + target // 2) if verb == "keep" else None
                )
                targets[name] = target
                known |= {target} if verb == "keep" else set()
        known &= set(targets.values())
        expected = {
            image: sorted(n for n, t in targets.items() if t in known and 100 + t // 2 == image)
            for image in (100, 101)
        }
        seen = {image.id: list(image.tags) for image in cache.images()}
        assert seen == {digest(image): names for image, names in expected.items() if names}
        for image_id, names in seen.items():
            assert cache.names_to_remove(image_id) == names
    for name in list(cache.names()):
        cache.drop(name)
    assert not any((cache._names, cache._contents, cache._targets, cache._images))


def test_many_images_take_time_by_their_number() -> None:
    """Eight times the records take about eight times as long, not sixty-four times."""

    def seconds(count: int) -> float:
        cache = ImageCache()
        began = time.process_time()
        for number in range(count):
            cache.keep(record(digest(number), number), content(number))
        for number in range(count):
            cache.drop(digest(number))
        assert cache.images() == []
        return float(time.process_time() - began)

    few, many = (min(seconds(count) for _ in range(3)) for count in (250, 2000))
    assert many < 25 * few
