"""What an image's config says about the user of its containers, and what a pull is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from generated.cri import api_pb2

_HANDLER_ANNOTATION: Final = "io.containerd.cri.runtime-handler"


def handler(*, runtime_handler: str, annotations: Mapping[str, str]) -> str:
    """The runtime handler that an image is unpacked for; "" is the default one."""
    return runtime_handler or annotations.get(_HANDLER_ANNOTATION, "")


def checkpoint_archive(*, image: str) -> str:
    """The path of the archive that stands in place of an image; "" for a reference."""
    return image if image.startswith("/") else ""


def uid(*, user: str) -> api_pb2.Int64Value | None:
    """The numeric user of an image (``uid`` or ``uid:gid``); None if it has none or a name.

    CRI ``Image.uid`` and ``Image.username`` exclude each other.
    """
    name = _user_part(user)
    return api_pb2.Int64Value(value=int(name.lstrip("0") or "0")) if _is_number(name) else None


def username(*, user: str) -> str:
    """The user name of an image (``name`` or ``name:group``); "" if it has none or a number."""
    name = _user_part(user)
    return "" if _is_number(name) else name


def _user_part(user: str) -> str:
    return user.partition(":")[0]


_LONGEST: Final = len(str((1 << 63) - 1))


def _is_number(name: str) -> bool:
    """Whether the name is a number that the CRI can represent, without leading zeros."""
    if not (name.isascii() and name.isdigit()):
        return False
    digits = name.lstrip("0") or "0"
    return len(digits) < _LONGEST or (len(digits) == _LONGEST and int(digits) < 1 << 63)
