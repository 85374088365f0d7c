"""The state of one container in the log keeper."""

from __future__ import annotations

from runtime.logs.format import LineFormatter
from runtime.logs.keeper.clients import Client
from runtime.logs.keeper.files import LogFile
from runtime.logs.keeper.protocol import STREAMS, Facts, OpenRequest

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable


class Container:
    """The open streams, the log file and the listeners of one container."""

    __slots__ = (
        "bytes_read",
        "call_since",
        "dropped",
        "feeds",
        "finish_later",
        "formatters",
        "log",
        "notified",
        "parked",
        "request",
        "stalled",
        "streams",
        "waiting",
    )

    def __init__(self, request: OpenRequest) -> None:
        self.request = request
        self.log = LogFile(request.log) if request.log else None
        self.formatters = {stream: LineFormatter(stream, request.limit) for stream in STREAMS}
        self.streams: dict[str, int] = {}
        """The descriptor of each open stream."""
        self.bytes_read = 0
        self.dropped = 0
        """Bytes of records that could not be written."""
        self.feeds: list[Client] = []
        """Attached clients."""
        self.waiting: list[Callable[[], None]] = []
        """Replies to ``drained``, sent when all streams have ended."""
        self.call_since = 0.0
        """Monotonic time at which a call into the log's file system began; 0 if there is none."""
        self.stalled = ""
        """Why the output is read and discarded, if that call takes too long."""
        self.parked = False
        """Whether the FIFOs are not read until that call ends."""
        self.finish_later = False
        """Whether all streams ended during that call."""
        self.notified = ""
        """The problem that clients were last notified of."""

    @property
    def identity(self) -> str:
        return self.request.container_id

    @property
    def lost(self) -> int:
        return self.dropped + (self.log.lost if self.log else 0)

    @property
    def problem(self) -> str:
        return self.stalled or (self.log.problem if self.log else "")

    @property
    def all_written(self) -> bool:
        """Whether all streams have ended and their output is written or counted as lost."""
        return not self.streams and (not self.finish_later or bool(self.stalled))

    def detach(self, client: Client) -> None:
        """Send no more live output to a client."""
        if client in self.feeds:
            self.feeds.remove(client)

    def facts(self) -> Facts:
        return {
            "request": self.request.facts(),
            "open": list(self.streams),
            "read": self.bytes_read,
            "lost": self.lost,
            "problem": self.problem,
        }
