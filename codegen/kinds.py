"""Whether a value of one kind can become a value of another; the result is a reason, not a
boolean."""

from __future__ import annotations

from dataclasses import replace

from codegen.model import Kind


def why_not(source: Kind, target: Kind) -> str | None:
    """Why ``source`` does not fit ``target``; None if it does.

    An ``int`` without known bounds (a Python annotation) fits every integer. If the source may be
    None, the target must allow that.
    """
    if "any" in (source.name, target.name):
        return None
    if source.optional and not target.optional:
        return f"it may be None, and {target} has no place for None"
    if source.name == "int" and target.name == "int":
        return _narrowing(source, target)
    if source.name == target.name and source.name in ("list", "map"):
        reasons = (why_not(s, t) for s, t in zip(source.of, target.of, strict=True))
        return next((reason for reason in reasons if reason), None)
    same = source.name == target.name and source.ref == target.ref
    if same or (source.name, target.name) in _WIDENING:
        return None
    return f"{_plain(source)} does not fit {_plain(target)}"


_WIDENING = {("enum", "int"), ("int", "enum"), ("int", "float"), ("bool", "int")}


def _plain(kind: Kind) -> str:
    return str(replace(kind, optional=False))


def _narrowing(source: Kind, target: Kind) -> str | None:
    if _below(source.low, target.low) or _below(target.high, source.high):
        return f"{_plain(source)} is wider than {_plain(target)}"
    return None


def is_narrowing(source: Kind, target: Kind) -> bool:
    """Whether ``source`` and ``target`` differ only in the range of integers."""
    return source.name == "int" == target.name and _narrowing(source, target) is not None


def _below(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and one < other
