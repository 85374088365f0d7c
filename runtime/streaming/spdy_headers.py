"""Header blocks of SPDY/3.1: compressed with one zlib stream for each direction of a connection."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from runtime.streaming.spdy_dictionary import DICTIONARY

MAX_HEADER_BYTES: Final = 64 << 10
"""Largest header block after decompression."""
MAX_HEADERS: Final = 256
"""Most names in one header block."""

_WINDOW_BITS: Final = 11
_MEMORY_LEVEL: Final = 1
"""Compression settings: the dictionary fits into 2 KiB, and our headers are few. With the defaults
each connection would use 268 KiB."""

_WORD: Final = struct.Struct(">I")

Headers: TypeAlias = Mapping[str, str]


class CompressionFault(Exception):
    """A block that cannot be decompressed; nor can any later one, because they depend on it."""


class HeaderBlocks:
    """The compression state of a connection, for what is sent and for what is received."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(
            level=zlib.Z_BEST_COMPRESSION,
            wbits=_WINDOW_BITS,
            memLevel=_MEMORY_LEVEL,
            zdict=DICTIONARY,
        )
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def encode(self, headers: Headers) -> bytes:
        """The block of these headers."""
        block = [_WORD.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += (_WORD.pack(len(text)), text)
        deflated = self._deflate.compress(b"".join(block))
        return deflated + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def decode(self, block: bytes) -> Headers:
        """The headers in a block.

        Raises CompressionFault, or ValueError if the block can be decompressed but its content is
        invalid: upper case, empty or repeated names, or invalid lengths.
        """
        try:
            plain = self._inflate.decompress(block, MAX_HEADER_BYTES + 1)
        except zlib.error as error:
            raise CompressionFault(f"headers not compressed as SPDY/3: {error}") from None
        if len(plain) > MAX_HEADER_BYTES or self._inflate.unconsumed_tail or self._inflate.eof:
            raise CompressionFault(
                f"headers of more than {MAX_HEADER_BYTES} bytes, or after the end of compression"
            )
        try:
            return _parse(plain)
        except struct.error as error:
            raise ValueError(str(error)) from None


def _parse(plain: bytes) -> Headers:
    (count,) = _WORD.unpack_from(plain)
    if count > MAX_HEADERS:
        raise ValueError(f"{count} headers")
    texts = list(_texts(plain, 4, 2 * count))
    headers = dict(zip(texts[::2], texts[1::2], strict=True))
    if len(headers) != count or any(not name or name != name.lower() for name in headers):
        raise ValueError("names")
    return headers


def _texts(plain: bytes, at: int, count: int) -> Iterator[str]:
    for _ in range(count):
        (length,) = _WORD.unpack_from(plain, at)
        at += 4
        if at + length > len(plain):
            raise ValueError("a length beyond the end of the block")
        yield plain[at : at + length].decode("latin-1")
        at += length
    if at != len(plain):
        raise ValueError("bytes after the last value")
