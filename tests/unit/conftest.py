"""What all unit tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import structlog


@pytest.fixture(autouse=True)
def _logging_of_one_test_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that configures logging, as commands do, must not affect what later tests capture."""
    configure = structlog.configure

    def uncached(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    structlog.reset_defaults()
