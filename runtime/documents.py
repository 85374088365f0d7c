"""Parse external JSON into typed records: a value of the wrong type is refused with its field path.

Strings are made valid (``runtime.text``) where JSON allows what Unicode does not, such as a lone
surrogate. Nesting is limited by the decoders, size by the caller that read the bytes; the time is
linear in the size.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

from runtime import text

T = TypeVar("T")

_SHOWN: Final = 200
"""Maximum characters of a reason."""


class DocumentError(ValueError):
    """The bytes are not such a document; the text names the field, as in ``config.User: …``."""


def decode(data: bytes, kind: type[T]) -> T:
    """The document as a ``kind`` (a ``msgspec.Struct``); unknown fields are ignored.

    Raises DocumentError with the invalid field and what it should be.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DocumentError(_located(error)) from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        # invalid JSON, or JSON that is not valid Unicode: only the slower decoder distinguishes
        # them
        return _decode_leniently(data, kind)


def convert(document: Any, kind: type[T]) -> T:
    """A decoded document as a ``kind``; keys that are null count as absent.

    DocumentError says which field is wrong and what it should be.
    """
    try:
        return msgspec.convert(_valid(without_nulls(document)), kind)
    except msgspec.ValidationError as error:
        raise DocumentError(_located(error)) from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error


def without_nulls(value: Any) -> Any:
    """A decoded document without the keys of objects whose value is null."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value


def _decode_leniently(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(_valid(json.loads(data.decode(errors="replace"))), kind)
    except msgspec.ValidationError as error:
        raise DocumentError(_located(error)) from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except ValueError as error:
        raise DocumentError(f"it is not JSON: {text.one_line(str(error), _SHOWN)}") from error


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return text.without_surrogates(value)
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    return value


def _located(error: msgspec.ValidationError) -> str:
    what, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").lstrip(".") or "it"
    return text.one_line(f"{path}: {what[:1].lower()}{what[1:]}", _SHOWN)
