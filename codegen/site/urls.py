"""The addresses of pages and rows, as seen from a page."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

_PLAIN = "/()*!'"
"""What an address may contain as it is, besides letters, digits and ``-._~``."""


@dataclass(frozen=True, slots=True)
class Urls:
    """Addresses from one page."""

    folder: str
    """The folder of the page; "" at the top of the site."""

    @property
    def up(self) -> str:
        """What leads to the top of the site."""
        return "../" if self.folder else ""

    def page(self, name: str) -> str:
        return f"{self.up}{name}.html"

    def message(self, name: str) -> str:
        return self._in("message", name)

    def field(self, message: str, anchor: str) -> str:
        return f"{self.message(message)}#{quote(anchor, _PLAIN)}"

    def rpc(self, name: str) -> str:
        return self._in("rpc", name)

    def _in(self, folder: str, name: str) -> str:
        below = "" if folder == self.folder else f"{self.up}{folder}/"
        return f"{below}{quote(name)}.html"

    def target(self, path: str) -> str:
        return f"{self.page('targets')}#{quote(path, _PLAIN)}"

    def source(self, path: str) -> str:
        return f"{self.page('targets')}#source:{quote(path, _PLAIN)}"

    def function(self, name: str) -> str:
        return f"{self.page('targets')}#function:{quote(name, _PLAIN)}"

    def machine(self, noun: str) -> str:
        return f"{self.page('lifecycle')}#{quote(noun)}"

    def change(self, old: str, new: str) -> str:
        return f"{self.page('changes')}#{quote(f'{old}..{new}')}"

    def fields(self, **filters: str) -> str:
        """The table of fields, with filters."""
        asked = "&".join(f"{key}={quote(value)}" for key, value in filters.items())
        return f"{self.page('fields')}#?{asked}"

    def here(self, anchor: str) -> str:
        """A row of the page itself."""
        return f"#{quote(anchor, _PLAIN)}"
