"""The limits of a pod's traffic, as the annotations of Kubernetes give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Final

from runtime.errors import InvalidArgument

INGRESS: Final = "kubernetes.io/ingress-bandwidth"
EGRESS: Final = "kubernetes.io/egress-bandwidth"

_BURST: Final = 2**32 - 1
"""Burst in bits: the maximum of the bandwidth plugin, so that only the rate limits traffic."""
_LEAST_RATE: Final = 1_000
_MOST_RATE: Final = 1_000_000_000_000_000

_QUANTITY: Final = re.compile(
    r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,3}))?"
)
_SCALE: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal("1e3"),
    **{suffix: Decimal(10) ** (6 + 3 * power) for power, suffix in enumerate("MGTPE")},
    **{f"{suffix}i": Decimal(1024) ** (1 + power) for power, suffix in enumerate("KMGTPE")},
}


def limits(*, annotations: Mapping[str, str]) -> dict[str, int] | None:
    """Return the rates in a pod's annotations, in bits per second; None if there are none."""
    found: dict[str, int] = {}
    for direction, annotation in (("ingress", INGRESS), ("egress", EGRESS)):
        if annotation in annotations:
            found[f"{direction}Rate"] = _rate(annotation, annotations[annotation])
            found[f"{direction}Burst"] = _BURST
    return found or None


def _rate(annotation: str, text: str) -> int:
    field = f"config.annotations[{annotation}]"
    bits = quantity(text)
    if bits is None:
        raise InvalidArgument(f"{text!r} is not a quantity such as 10M", field=field)
    if not _LEAST_RATE <= bits <= _MOST_RATE:
        raise InvalidArgument(f"must be between 1k and 1P bits per second, not {text}", field=field)
    return bits


def quantity(text: str) -> int | None:
    """Return a Kubernetes quantity, rounded up to an integer; None if ``text`` is not one."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, suffix, exponent = match.groups()
    scale = Decimal(10) ** int(exponent) if exponent else _SCALE[suffix or ""]
    return int((Decimal(number) * scale).to_integral_value(ROUND_CEILING))
