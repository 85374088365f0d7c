"""The real components of the e2e tests."""

from tests.e2e.conftest import node, nothing_is_left, registry

__all__ = ["node", "nothing_is_left", "registry"]
