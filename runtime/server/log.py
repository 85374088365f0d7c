"""How the server logs: one line for each event, on stderr, for the journal and for people."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Log from ``level`` up: ``debug``, ``info``, ``warning``, ``error`` or ``critical``."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    shared: list[structlog.typing.Processor] = [structlog.processors.add_log_level, stamp]
    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            _console() if on_terminal else structlog.processors.LogfmtRenderer(key_order=_FIRST),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


_FIRST = ["timestamp", "level", "event"]


def _console() -> structlog.typing.Processor:
    return structlog.dev.ConsoleRenderer(colors=True)
