"""The streams of a client of a container."""

from __future__ import annotations

from runtime.errors import InvalidArgument
from runtime.transforms.facts import Streams


def requested(*, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Streams:
    """The streams of a client, of which there must be one. Raises InvalidArgument."""
    if not (stdin or stdout or stderr):
        raise InvalidArgument("one of stdin, stdout and stderr must be set", field="stdin")
    return Streams(stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
