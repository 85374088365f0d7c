"""One change between two versions of the API or two states of ``spec/``, by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Named:
    """One change: its kind as a word, its subject, the old and new value, and what it means."""

    kind: str
    subject: str
    detail: str
    effect: str
    """One of the classes of ``proto_diff`` or ``mapping_diff``."""

    comment: str = ""
    """What the published API says about something new; "" if that is not known."""

    def markdown(self) -> str:
        said = f"- **{self.kind}** `{self.subject}`" + (f": {self.detail}" if self.detail else "")
        return "\n".join([said, *(f"  > {line}".rstrip() for line in self.comment.splitlines())])
