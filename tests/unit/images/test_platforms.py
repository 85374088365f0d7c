"""Which images run on which host, by containerd's rules."""

from __future__ import annotations

import pytest

from runtime.images.platforms import Platform, host_platform, rank

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def best(host: Platform, *offered: Platform) -> Platform | None:
    ranks = [(place, one) for one in offered if (place := rank(one, host)) is not None]
    return min(ranks, key=lambda pair: pair[0])[1] if ranks else None


def named(name: str) -> Platform:
    system, architecture, variant = [*name.split("/"), ""][:3]
    return Platform(system, architecture, variant)


@pytest.mark.parametrize(
    ("host", "offered", "chosen"),
    [
        (AMD64, ["linux/arm64", "linux/amd64"], "linux/amd64"),
        (AMD64, ["windows/amd64", "linux/x86_64"], "linux/x86_64"),
        (AMD64, ["linux/386", "linux/amd64"], "linux/amd64"),
        (AMD64, ["linux/386"], "linux/386"),
        (AMD64, ["linux/i386"], "linux/i386"),
        (AMD64, ["linux/amd64/v1"], "linux/amd64/v1"),
        (AMD64, ["linux/amd64/v2"], None),
        (Platform("linux", "amd64", "v3"), ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        (ARM64, ["linux/arm64/v8"], "linux/arm64/v8"),
        (ARM64, ["linux/arm64/v9", "linux/arm64/v8.1"], None),
        (
            Platform("linux", "arm64", "v9"),
            ["linux/arm64/v8", "linux/arm64/v8.5"],
            "linux/arm64/v8.5",
        ),
        (ARM64, ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        (Platform("linux", "arm", "v7"), ["linux/arm/v6", "linux/arm"], "linux/arm"),
        (Platform("linux", "arm", "v6"), ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        (Platform("linux", "arm", "v6"), ["linux/arm"], None),
        (Platform("linux", "arm", "v6"), ["linux/armel"], "linux/armel"),
        (Platform("linux", "riscv64"), ["linux/amd64", "LINUX/RISCV64"], "LINUX/RISCV64"),
    ],
)
def test_best_platform(host: Platform, offered: list[str], chosen: str | None) -> None:
    found = best(host, *map(named, offered))
    assert (str(found) if found else None) == chosen


def test_features_of_the_system_must_be_there() -> None:
    needs = Platform("linux", "amd64", "", ("erofs",))
    assert rank(needs, AMD64) is None
    assert rank(needs, Platform("linux", "amd64", "", ("erofs", "other"))) == 0
    assert str(needs) == "linux(+erofs)/amd64"


@pytest.mark.parametrize(
    ("architecture", "machine", "platform"),
    [
        ("amd64", "x86_64", "linux/amd64"),
        ("arm64", "aarch64", "linux/arm64"),
        ("arm", "armv6l", "linux/arm/v6"),
        ("arm", "armv7l", "linux/arm/v7"),
        ("arm", "armv8l", "linux/arm/v8"),
    ],
)
def test_platform_of_this_host(architecture: str, machine: str, platform: str) -> None:
    assert str(host_platform(architecture, machine)) == platform
