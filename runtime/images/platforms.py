"""Which platforms' images run on this host, and which of several runs best.

The rules are those of containerd's platform matcher: names are normalised first; an x86-64 host
runs older levels and 32-bit images, an ARM host older variants. The host must have every OS feature
that an image requires; an OS version has no meaning on Linux.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in Go's terms."""

    os: str
    architecture: str
    variant: str = ""
    os_features: tuple[str, ...] = ()
    """OS features that the image needs, or the host has."""

    def __str__(self) -> str:
        """``linux/arm/v7``; with features, ``linux(+erofs)/amd64``."""
        features = "".join(f"+{feature}" for feature in self.os_features)
        os = f"{self.os}({features})" if features else self.os
        return "/".join(filter(None, (os, self.architecture, self.variant)))


_MACHINE_VARIANTS: Final = {"armv5": "v5", "armv6": "v6", "armv7": "v7", "armv8": "v8"}


def host_platform(architecture: str, machine: str) -> Platform:
    """This host's platform, from Go's name of its architecture and uname's machine (``armv6l``)."""
    variant = _MACHINE_VARIANTS.get(machine[:5], "") if architecture == "arm" else ""
    return Platform("linux", architecture, variant)


def rank(platform: Platform, host: Platform) -> int | None:
    """How well an image for ``platform`` runs on ``host``: 0 is best; None: not at all."""
    offered = _normal(platform)
    if not set(offered.os_features) <= set(host.os_features):
        return None
    for place, (architecture, variant) in enumerate(_runnable(_normal(host))):
        if (offered.os, offered.architecture, offered.variant) == (host.os, architecture, variant):
            return place
    return None


_ALIASES: Final = {
    ("amd64", "v1"): ("amd64", ""),
    ("arm64", "8"): ("arm64", ""),
    ("arm64", "v8"): ("arm64", ""),
    ("arm64", "v8.0"): ("arm64", ""),
    ("arm64", "9"): ("arm64", "v9"),
    ("arm64", "9.0"): ("arm64", "v9"),
    ("arm64", "v9.0"): ("arm64", "v9"),
    ("arm", ""): ("arm", "v7"),
    ("arm", "8"): ("arm", "v8"),
    ("arm", "7"): ("arm", "v7"),
    ("arm", "6"): ("arm", "v6"),
    ("arm", "5"): ("arm", "v5"),
}

_ARCHITECTURES: Final = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
_WHOLE: Final = {"i386": ("386", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6")}
"""Architecture names that determine the variant too, overriding any stated variant."""


def _normal(platform: Platform) -> Platform:
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    architecture = _ARCHITECTURES.get(architecture, architecture)
    architecture, variant = _WHOLE.get(
        architecture, _ALIASES.get((architecture, variant), (architecture, variant))
    )
    return Platform(platform.os.lower() or "linux", architecture, variant, platform.os_features)


_ARM64_LEVELS: Final = {"v8": ((8, 0),), "v9": ((9, 0), (8, 5))}
"""For each generation the newest level at minor 0; each further minor version allows one more."""


def _runnable(host: Platform) -> Iterator[tuple[str, str]]:
    """Architecture and variant of everything the host runs, best first."""
    match host.architecture:
        case "amd64":
            yield from (("amd64", level) for level in _amd64_levels(host.variant))
            yield "386", ""
        case "arm64":
            yield from (("arm64", level) for level in _arm64_levels(host.variant or "v8"))
            yield from (("arm", level) for level in ("v8", "v7", "v6", "v5"))
        case "arm":
            yield "arm", host.variant
            newest = _number(host.variant)
            yield from (("arm", f"v{level}") for level in range(newest - 1, 4, -1))
        case other:
            yield other, host.variant


def _amd64_levels(variant: str) -> Iterator[str]:
    yield variant
    yield from (f"v{level}" if level > 1 else "" for level in range(_number(variant) - 1, 0, -1))


def _arm64_levels(variant: str) -> Iterator[str]:
    major, _, minor = variant.partition(".")
    newer = _number("v" + (minor or "0"))
    for generation, newest in _ARM64_LEVELS.get(major, ()):
        for level in range(newest + newer, -1, -1):
            name = f"v{generation}.{level}" if level else f"v{generation}"
            yield "" if name == "v8" else name


def _number(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 0
