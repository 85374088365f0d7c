"""The pause program and its image, built in memory: ``serve --embedded`` needs no network for it.

The program is PID 1 of a pod. It waits for signals, reaps the children that a shared PID namespace
re-parents to it, and exits on SIGTERM and SIGINT. It is a static ELF file of some 250 bytes,
assembled here for amd64 and arm64, so neither a compiler nor a binary file is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, TypeAlias

from runtime.images.manifest import Descriptor

_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_ENTRY: Final = 0x40_0000
_HEADERS: Final = 64 + 56
"""Bytes of the ELF header and of its only program header."""


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the code."""

    name: str


@dataclass(frozen=True, slots=True)
class Jump:
    """An x86-64 instruction that ends in the distance to a label, in ``distance_size`` bytes; it is
    counted from the end of the instruction."""

    opcode: bytes
    target: str
    distance_size: int

    @property
    def size(self) -> int:
        """Bytes of the whole instruction."""
        return len(self.opcode) + self.distance_size

    def encoded(self, distance: int) -> bytes:
        """The instruction for a label that is ``distance`` bytes after its own start."""
        ahead = distance - self.size
        return self.opcode + ahead.to_bytes(self.distance_size, "little", signed=True)


@dataclass(frozen=True, slots=True)
class WordJump:
    """An arm64 instruction with the distance to a label in ``bits`` bits, starting at bit
    ``shift``; it is counted in words from the start of the instruction."""

    opcode: int
    target: str
    shift: int
    bits: int
    size: ClassVar[int] = 4

    def encoded(self, distance: int) -> bytes:
        """The instruction for a label that is ``distance`` bytes after its own start."""
        words = (distance >> 2) & ((1 << self.bits) - 1)
        return struct.pack("<I", self.opcode | words << self.shift)


Code: TypeAlias = Iterable[bytes | Label | Jump | WordJump]

_SIGINT, _SIGTERM, _SIGCHLD = 2, 15, 17
_MASK: Final = struct.pack("<Q", sum(1 << (n - 1) for n in (_SIGINT, _SIGTERM, _SIGCHLD)))

# The x86-64 system calls: number in eax, arguments in rdi, rsi, rdx, r10.
_AMD64: Final[Code] = (
    # rt_sigprocmask(SIG_BLOCK, &mask, NULL, 8): rt_sigtimedwait receives blocked signals. PID 1
    # needs this because the kernel drops signals whose default action it would take.
    b"\xb8\x0e\x00\x00\x00",  # mov eax, 14
    b"\x31\xff",  # xor edi, edi
    Jump(b"\x48\x8d\x35", "mask", 4),  # lea rsi, [rip + mask]
    b"\x31\xd2",  # xor edx, edx
    b"\x41\xba\x08\x00\x00\x00",  # mov r10d, 8
    b"\x0f\x05",  # syscall
    Label("wait"),
    # rt_sigtimedwait(&mask, NULL, NULL, 8)
    b"\xb8\x80\x00\x00\x00",  # mov eax, 128
    Jump(b"\x48\x8d\x3d", "mask", 4),  # lea rdi, [rip + mask]
    b"\x31\xf6",  # xor esi, esi
    b"\x31\xd2",  # xor edx, edx
    b"\x41\xba\x08\x00\x00\x00",  # mov r10d, 8
    b"\x0f\x05",  # syscall
    bytes([0x83, 0xF8, _SIGCHLD]),  # cmp eax, SIGCHLD
    Jump(b"\x74", "reap", 1),  # je reap
    bytes([0x83, 0xF8, _SIGTERM]),  # cmp eax, SIGTERM
    Jump(b"\x74", "quit", 1),  # je quit
    bytes([0x83, 0xF8, _SIGINT]),  # cmp eax, SIGINT
    Jump(b"\x75", "wait", 1),  # jne wait
    Label("quit"),
    # exit(0)
    b"\xb8\x3c\x00\x00\x00",  # mov eax, 60
    b"\x31\xff",  # xor edi, edi
    b"\x0f\x05",  # syscall
    Label("reap"),
    # wait4(-1, NULL, WNOHANG, NULL) until it returns none: one signal may stand for several
    # children.
    b"\xb8\x3d\x00\x00\x00",  # mov eax, 61
    b"\x48\xc7\xc7\xff\xff\xff\xff",  # mov rdi, -1
    b"\x31\xf6",  # xor esi, esi
    b"\xba\x01\x00\x00\x00",  # mov edx, WNOHANG
    b"\x45\x31\xd2",  # xor r10d, r10d
    b"\x0f\x05",  # syscall
    b"\x85\xc0",  # test eax, eax
    Jump(b"\x7f", "reap", 1),  # jg reap
    Jump(b"\xeb", "wait", 1),  # jmp wait
    Label("mask"),
    _MASK,
)


def _words(*instructions: int) -> bytes:
    return struct.pack(f"<{len(instructions)}I", *instructions)


def _mov(register: int, value: int) -> int:
    return 0xD280_0000 | value << 5 | register  # movz xN, #value


def _cmp_w0(value: int) -> int:
    return 0x7100_001F | value << 10  # cmp w0, #value


_SVC: Final = 0xD400_0001  # svc #0
_MOV_X0_MINUS_1: Final = 0x9280_0000  # movn x0, #0

# The same on arm64: number in x8, arguments in x0 to x3, result in x0.
_ARM64: Final[Code] = (
    # rt_sigprocmask(SIG_BLOCK, &mask, NULL, 8)
    _words(_mov(8, 135), _mov(0, 0)),
    WordJump(0x1000_0001, "mask", 5, 19),  # adr x1, mask
    _words(_mov(2, 0), _mov(3, 8), _SVC),
    Label("wait"),
    # rt_sigtimedwait(&mask, NULL, NULL, 8)
    _words(_mov(8, 137)),
    WordJump(0x1000_0000, "mask", 5, 19),  # adr x0, mask
    _words(_mov(1, 0), _mov(2, 0), _mov(3, 8), _SVC),
    _words(_cmp_w0(_SIGCHLD)),
    WordJump(0x5400_0000, "reap", 5, 19),  # b.eq reap
    _words(_cmp_w0(_SIGTERM)),
    WordJump(0x5400_0000, "quit", 5, 19),  # b.eq quit
    _words(_cmp_w0(_SIGINT)),
    WordJump(0x5400_0001, "wait", 5, 19),  # b.ne wait
    Label("quit"),
    # exit(0)
    _words(_mov(8, 93), _mov(0, 0), _SVC),
    Label("reap"),
    # wait4(-1, NULL, WNOHANG, NULL)
    _words(_mov(8, 260), _MOV_X0_MINUS_1, _mov(1, 0), _mov(2, 1), _mov(3, 0), _SVC, _cmp_w0(0)),
    WordJump(0x5400_000C, "reap", 5, 19),  # b.gt reap
    WordJump(0x1400_0000, "wait", 0, 26),  # b wait
    Label("mask"),
    _MASK,
)

_MACHINES: Final[Mapping[str, tuple[int, Code]]] = {"amd64": (62, _AMD64), "arm64": (183, _ARM64)}
"""ELF machine number and code, by architecture."""


@dataclass(frozen=True, slots=True)
class PauseImage:
    """An OCI image in memory; the layer is an uncompressed tar file."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """All blobs by digest."""
        return {digest(blob): blob for blob in (self.manifest, self.config, self.layer)}


def image(architecture: str) -> PauseImage:
    """The image for an architecture of the host (Go's name); reproducible.

    Raises ValueError for an architecture without a program.
    """
    layer = _layer(program(architecture))
    config = _json(
        {
            "architecture": architecture,
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
            "history": [{"created_by": "cri-containerd"}],
            "os": "linux",
            "rootfs": {"diff_ids": [digest(layer)], "type": "layers"},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    return PauseImage(manifest, config, layer)


class PauseSource:
    """The built-in pause image as the source of a pull (``image_pull.ImageSource``)."""

    def __init__(self, architecture: str) -> None:
        made = image(architecture)
        self._manifest = made.manifest
        self._blobs = made.blobs

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The only manifest, for any request."""
        target = Descriptor(_MANIFEST_TYPE, digest(self._manifest), len(self._manifest))
        return target, self._manifest

    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Config or layer."""
        yield self._blobs[descriptor.digest][offset:]


def program(architecture: str) -> bytes:
    """The ELF file for an architecture; raises ValueError if there is none."""
    if architecture not in _MACHINES:
        raise ValueError(
            f"there is no pause program for {architecture}, only for {', '.join(_MACHINES)}; "
            "set a pause image of your own as images.pinned_images.sandbox"
        )
    machine, code = _MACHINES[architecture]
    text = assembled(code)
    size = _HEADERS + len(text)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",  # 64 bit, little-endian, version 1
        2,  # ET_EXEC
        machine,
        1,
        _ENTRY + _HEADERS,  # the entry point
        64,  # the offset of the program header
        0,  # no sections
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _ENTRY, _ENTRY, size, size, 0x1000)  # PT_LOAD, r-x
    return elf + load + text


def assembled(code: Code) -> bytes:
    """The machine code with resolved jumps."""
    places: dict[str, int] = {}
    offset = 0
    for part in code:
        if isinstance(part, Label):
            places[part.name] = offset
        else:
            offset += len(part) if isinstance(part, bytes) else part.size
    out = bytearray()
    for part in code:
        if isinstance(part, bytes):
            out += part
        elif not isinstance(part, Label):
            out += part.encoded(places[part.target] - len(out))
    return bytes(out)


def digest(blob: bytes) -> str:
    """The OCI digest of a blob."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _layer(pause: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo("pause")
        entry.mode = 0o755
        entry.size = len(pause)
        tar.addfile(entry, io.BytesIO(pause))
    return buffer.getvalue()


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
