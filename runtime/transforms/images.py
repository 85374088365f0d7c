"""What an image's config says of the user of its containers."""

from __future__ import annotations

from generated.cri import api_pb2


def uid(*, user: str) -> api_pb2.Int64Value | None:
    """The number of an image's user (``uid`` or ``uid:gid``); None when it has none or a name.

    CRI ``Image.uid`` and ``Image.username`` exclude each other.
    """
    name = _user_part(user)
    return api_pb2.Int64Value(value=int(name)) if _is_number(name) else None


def username(*, user: str) -> str:
    """The name of an image's user (``name`` or ``name:group``); "" when it has none or a number."""
    name = _user_part(user)
    return "" if _is_number(name) else name


def _user_part(user: str) -> str:
    return user.partition(":")[0]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) < 1 << 63
