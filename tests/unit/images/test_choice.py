"""The walk through an index: nested indexes, entries without platforms, and its limits."""

from __future__ import annotations

import pytest

from runtime.errors import FailedPrecondition, NotFound
from runtime.images.choice import DEPTH_LIMIT, DOCUMENT_LIMIT, choose
from runtime.images.manifest import INDEX_TYPES, MANIFEST_TYPES, Config, Descriptor, Index, Manifest
from runtime.images.platforms import Platform

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
I386 = Platform("linux", "386")
UNKNOWN = Platform("unknown", "unknown")


class Documents:
    """The content of a registry; digests are names."""

    def __init__(self) -> None:
        self.documents: dict[str, Index | Manifest] = {}
        self.configs: dict[str, Config] = {}
        self.asked: list[str] = []

    def image(self, name: str, platform: Platform) -> Descriptor:
        self.documents[name] = Manifest(Descriptor("", f"config of {name}", 1), ())
        self.configs[f"config of {name}"] = Config((), platform)
        return Descriptor(MANIFEST_TYPES[0], name, 1)

    def index(self, name: str, *entries: tuple[Descriptor, Platform | None]) -> Descriptor:
        self.documents[name] = Index(entries)
        return Descriptor(INDEX_TYPES[0], name, 1)

    async def read(self, descriptor: Descriptor) -> Index | Manifest:
        self.asked.append(descriptor.digest)
        if descriptor.digest not in self.documents:
            raise NotFound(f"{descriptor.digest} is not here")
        return self.documents[descriptor.digest]

    async def read_config(self, descriptor: Descriptor) -> Config:
        if descriptor.digest not in self.configs:
            raise FailedPrecondition(f"{descriptor.digest} is broken")
        return self.configs[descriptor.digest]

    async def choose(
        self, *entries: tuple[Descriptor, Platform | None], host: Platform = AMD64
    ) -> str:
        """The name of the chosen image."""
        found = await choose(Index(entries), host, self.read, self.read_config)
        return found.config.digest.removeprefix("config of ")


@pytest.fixture
def has() -> Documents:
    return Documents()


async def test_entries_that_name_their_platform_need_no_other_document(has: Documents) -> None:
    arm, amd = has.image("arm", ARM64), has.image("amd", AMD64)
    assert await has.choose((arm, ARM64), (amd, AMD64)) == "amd"
    assert has.asked == ["amd"]


async def test_candidates_with_a_platform_come_first(has: Documents) -> None:
    silent, named = has.image("silent", AMD64), has.image("named", I386)
    assert await has.choose((silent, None), (named, I386)) == "named"


async def test_the_config_decides_for_entries_that_name_none(has: Documents) -> None:
    arm, amd = has.image("arm", ARM64), has.image("amd", AMD64)
    assert await has.choose((arm, None), (amd, None)) == "amd"
    assert await has.choose((arm, None), (amd, None), host=ARM64) == "arm"


async def test_the_best_config_wins(has: Documents) -> None:
    old, new = has.image("old", I386), has.image("new", AMD64)
    assert await has.choose((old, None), (new, None)) == "new"


async def test_no_candidate_matches(has: Documents) -> None:
    arm, other = has.image("arm", ARM64), has.image("s390x", Platform("linux", "s390x"))
    with pytest.raises(
        NotFound, match=r"^no image for linux/amd64; available: linux/arm64, linux/s390x$"
    ):
        await has.choose((arm, None), (other, Platform("linux", "s390x")), (arm, UNKNOWN))
    with pytest.raises(NotFound, match=r"^no image for linux/amd64; available: none$"):
        await has.choose()


async def test_index_in_an_index(has: Documents) -> None:
    arm, amd = has.image("arm", ARM64), has.image("amd", AMD64)
    inner = has.index("inner", (arm, ARM64), (amd, AMD64))
    for depth in range(DEPTH_LIMIT - 2):
        inner = has.index(f"around {depth}", (inner, None))
    assert await has.choose((inner, None)) == "amd"


async def test_inner_index_of_another_platform_is_skipped(has: Documents) -> None:
    arm, amd = has.image("arm", ARM64), has.image("amd", AMD64)
    first = has.index("first", (arm, ARM64))
    second = has.index("second", (amd, None))
    assert await has.choose((first, None), (second, AMD64)) == "amd"
    assert await has.choose((first, None), (second, None)) == "amd"


async def test_endless_nesting_is_refused(has: Documents) -> None:
    inner = has.index("inner", (has.image("amd", AMD64), AMD64))
    for depth in range(1500):
        inner = has.index(f"around {depth}", (inner, None))
    with pytest.raises(FailedPrecondition, match="nested more than 8 deep"):
        await has.choose((inner, None))
    assert len(has.asked) == DEPTH_LIMIT


async def test_an_index_with_too_many_entries_is_refused(has: Documents) -> None:
    entries = [(has.image(f"arm {i}", ARM64), None) for i in range(1000)]
    with pytest.raises(FailedPrecondition, match="state the platforms in the index"):
        await has.choose(*entries)
    assert len(has.asked) == DOCUMENT_LIMIT


async def test_an_index_that_names_itself_ends(has: Documents) -> None:
    itself = Descriptor(INDEX_TYPES[0], "itself", 1)
    has.index("itself", (itself, None))
    with pytest.raises(NotFound, match="no image for"):
        await has.choose((itself, None), (itself, AMD64))


async def test_a_broken_candidate_does_not_hide_a_good_one(has: Documents) -> None:
    """The content store has no documents of other platforms."""
    absent = Descriptor(MANIFEST_TYPES[0], "absent", 1)
    broken = has.image("broken", AMD64)
    has.configs.clear()
    amd = has.image("amd", AMD64)
    assert await has.choose((absent, None), (broken, None), (amd, None)) == "amd"
    with pytest.raises(FailedPrecondition, match="config of broken is broken"):
        await has.choose((broken, None))


async def test_the_chosen_manifest_must_exist(has: Documents) -> None:
    with pytest.raises(NotFound, match="absent is not here"):
        await has.choose((Descriptor(MANIFEST_TYPES[0], "absent", 1), AMD64))
