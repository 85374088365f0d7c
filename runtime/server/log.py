"""The server's log format: one line for each event, on stderr, for the journal and for people."""

from __future__ import annotations

import logging
import sys

import structlog

from runtime import text


def configure(level: str) -> None:
    """Log events of ``level`` and above: ``debug``, ``info``, ``warning``, ``error``,
    ``critical``."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [structlog.processors.add_log_level, stamp]
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            valid_text,
            _console() if on_terminal else structlog.processors.LogfmtRenderer(key_order=_FIRST),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def valid_text(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Sanitize every text of an event for terminals and the journal, whatever its source."""
    return {
        key: text.valid(value) if isinstance(value, str) else value for key, value in event.items()
    }


_FIRST = ["timestamp", "level", "event"]


def _console() -> structlog.typing.Processor:
    return structlog.dev.ConsoleRenderer(colors=True)
