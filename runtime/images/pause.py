"""The pause program and its image, made from nothing: ``serve --embedded`` needs no network for it.

The program is PID 1 of a pod. It waits for signals, collects the children that a shared PID
namespace leaves to it, and ends on SIGTERM and SIGINT. It is a static ELF file of some 250 bytes,
assembled here, so that no compiler and no binary file is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from runtime.images.manifest import Descriptor

_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
_ENTRY: Final = 0x40_0000
_HEADERS: Final = 64 + 56
"""Bytes of the ELF header and of the one program header."""


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the code."""

    name: str


@dataclass(frozen=True, slots=True)
class Jump:
    """An instruction that ends in a distance to a label, of ``size`` bytes."""

    opcode: bytes
    target: str
    size: int


Code: TypeAlias = Iterable[bytes | Label | Jump]

_SIGINT, _SIGTERM, _SIGCHLD = 2, 15, 17

# The x86-64 system calls: number in eax, arguments in rdi, rsi, rdx, r10.
_AMD64: Final[Code] = (
    # rt_sigprocmask(SIG_BLOCK, &mask, NULL, 8): blocked signals wait for rt_sigtimedwait, which
    # PID 1 needs, as the kernel drops those that it would take with their default action.
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
    # wait4(-1, NULL, WNOHANG, NULL) until there is no more: one signal may stand for several.
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
    struct.pack("<Q", sum(1 << (number - 1) for number in (_SIGINT, _SIGTERM, _SIGCHLD))),
)

_MACHINES: Final[Mapping[str, tuple[int, Code]]] = {"amd64": (62, _AMD64)}
"""ELF machine number and code, by architecture."""


@dataclass(frozen=True, slots=True)
class PauseImage:
    """An OCI image in memory; the layer is an uncompressed tar file."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def blobs(self) -> Mapping[str, bytes]:
        """All of it by digest."""
        return {digest(blob): blob for blob in (self.manifest, self.config, self.layer)}


def image(architecture: str) -> PauseImage:
    """The image for an architecture of the host (Go's name); the same bytes every time.

    Raises ValueError for an architecture that has no program.
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
    """The own pause image as the pull sees it (``image_pull.ImageSource``)."""

    def __init__(self, architecture: str) -> None:
        made = image(architecture)
        self._manifest = made.manifest
        self._blobs = made.blobs

    async def manifest(self, wanted: str = "") -> tuple[Descriptor, bytes]:
        """The one manifest, whatever is asked for."""
        target = Descriptor(_MANIFEST_TYPE, digest(self._manifest), len(self._manifest))
        return target, self._manifest

    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Config or layer."""
        yield self._blobs[descriptor.digest][offset:]


def program(architecture: str) -> bytes:
    """The ELF file for an architecture; raises ValueError when there is none."""
    if architecture not in _MACHINES:
        raise ValueError(
            f"there is no pause program for {architecture}, only for {', '.join(_MACHINES)}; "
            "name a pause image of your own as images.pinned_images.sandbox"
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
        _ENTRY + _HEADERS,  # where it begins
        64,  # where the program header is
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
    """The machine code, its jumps resolved (distances count from the end of the instruction)."""
    places: dict[str, int] = {}
    offset = 0
    for part in code:
        if isinstance(part, Label):
            places[part.name] = offset
        else:
            offset += _size(part)
    out = bytearray()
    for part in code:
        if isinstance(part, Jump):
            distance = places[part.target] - (len(out) + _size(part))
            out += part.opcode + distance.to_bytes(part.size, "little", signed=True)
        elif isinstance(part, bytes):
            out += part
    return bytes(out)


def digest(blob: bytes) -> str:
    """The OCI digest of a blob."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _size(part: bytes | Jump) -> int:
    return len(part) if isinstance(part, bytes) else len(part.opcode) + part.size


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
