"""Image verifiers: programs that decide whether an image may be pulled.

They are called like containerd's plugin ``io.containerd.image-verifier.v1.bindir`` does: every
program of a directory, in the order of the names, with the image's reference and digest. Exit code
0 allows the image. Anything else refuses it: another exit code, exceeding the time limit, or a
program that cannot be run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from runtime.config.tables import ImageVerifierTable
from runtime.errors import SignatureValidationFailed
from runtime.images.manifest import Descriptor
from runtime.steps import threads
from runtime.steps.parallel import all_finished

log = structlog.get_logger(__name__)

_DESCRIPTOR_TYPE: Final = "application/vnd.oci.descriptor.v1+json"
_OUTPUT_LIMIT: Final = 16 << 10
"""Bytes of each stream that are kept; the rest is read and dropped."""
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Verifiers:
    """The programs of the configured directory, looked up again for each image."""

    config: ImageVerifierTable

    async def verify(self, reference: str, target: Descriptor) -> None:
        """Return if every verifier allows the image, or if there is none.

        Raises SignatureValidationFailed, which names the verifier and repeats its reason.
        """
        for program in await self._programs(reference):
            await self._ask(program, reference, target)

    async def _programs(self, reference: str) -> list[Path]:
        directory = Path(self.config.bin_dir)
        try:
            found = await threads.CONFIGURATION.run(_entries, directory)
        except OSError as error:
            raise SignatureValidationFailed(
                f"cannot read the image verifiers in {directory}: {error.strerror}"
            ) from error
        limit = self.config.max_verifiers
        if 0 <= limit < len(found):
            log.warning(
                "image verifiers skipped: max_verifiers is too small",
                image=reference,
                skipped=[program.name for program in found[limit:]],
            )
            return found[:limit]
        return found

    async def _ask(self, program: Path, reference: str, target: Descriptor) -> None:
        what = f"{reference} with digest {target.digest}"
        limit = float(self.config.per_verifier_timeout)
        arguments = (
            *("-name", reference),
            *("-digest", target.digest),
            *("-stdin-media-type", _DESCRIPTOR_TYPE),
        )
        document = {"mediaType": target.media_type, "digest": target.digest, "size": target.size}
        try:
            async with asyncio.timeout(limit):
                code, said, details = await _output(
                    str(program), arguments, json.dumps(document).encode()
                )
        except TimeoutError as error:
            raise SignatureValidationFailed(
                f"image verifier {program.name} did not finish for {what} within {limit:g} s"
            ) from error
        except OSError as error:
            raise SignatureValidationFailed(
                f"image verifier {program} cannot be run: {error.strerror}"
            ) from error
        log.debug(
            "image verified", image=reference, verifier=program.name, code=code, stderr=details
        )
        if code != 0:
            raise SignatureValidationFailed(
                f"image verifier {program.name} rejected {what} (exit code {code}): {said}"
            )


def _entries(directory: Path) -> list[Path]:
    """The entries of the directory by name; none if it does not exist."""
    try:
        return sorted(directory.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


async def _output(program: str, arguments: tuple[str, ...], given: bytes) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a cancellation kills the program and its children."""
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
    )
    # Not cancelled: asyncio would kill the program alone, and wait for the children that hold its
    # output open.
    try:
        await all_finished(starting)
    except asyncio.CancelledError:
        if starting.exception() is None:
            await _kill(starting.result())
        raise
    process = starting.result()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        _, out, err = await asyncio.gather(
            _feed(process.stdin, given), _beginning(process.stdout), _beginning(process.stderr)
        )
        return await process.wait(), out, err
    finally:
        await _kill(process)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the program and its children, unless it has exited, and reap it."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


async def _feed(stdin: asyncio.StreamWriter, given: bytes) -> None:
    """Write all of it; a program may exit without reading it."""
    with suppress(ConnectionError):
        stdin.write(given)
        await stdin.drain()
    stdin.close()


async def _beginning(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while piece := await stream.read(_PIECE):
        kept += piece[: _OUTPUT_LIMIT - len(kept)]
    return kept.decode(errors="replace").strip()
