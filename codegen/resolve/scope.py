"""The message whose entries are being resolved, and everything that they may refer to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codegen import kinds
from codegen.errors import Place, SpecError
from codegen.model import Entry, Field, Item, Kind, MappingFile, Message, Source
from codegen.paths import Paths
from codegen.rpc import Rpcs


@dataclass(frozen=True, slots=True)
class Scope:
    """One message of the mapping."""

    message: Message
    file: MappingFile
    files: Mapping[str, MappingFile]
    """All mapping files, by message."""
    paths: Paths
    rpcs: Rpcs | None
    """None if rpc.yaml could not be read."""
    items: tuple[Item, ...] = ()
    """What the message becomes, if its file has ``item``."""

    def is_target(self, entry: Entry) -> bool:
        """Whether the entry is under ``targets`` and does not belong to a field."""
        return self.file.targets.get(entry.name) is entry

    def own(self, field: Field) -> Source:
        """A field of the message itself, as a source."""
        steps = (field.name,)
        return Source(
            field.name, None, steps, field.kind, field.presence, told_by=steps * field.presence
        )

    def nested(self, entry: Entry, field: Field) -> str:
        """The message that ``copy: fields`` refers to."""
        if field.message is None:
            raise SpecError(
                f"{entry.name} is {field.kind} and has no fields of its own",
                entry.value_place,
                "name the target instead of `fields`",
                "fields-do-not-fit",
            )
        if field.message not in self.paths.api.messages:
            raise SpecError(
                f"{entry.name} is {field.message}, which is not a message of"
                f" {self.paths.api.package} and has no mapping",
                entry.value_place,
                "give the whole field to a function, or make it unmapped",
                "foreign-message",
            )
        return field.message


_WHEN_FITS: Mapping[str, frozenset[str]] = {
    "nonzero": frozenset({"int", "float", "bool", "enum"}),
    "nonempty": frozenset({"str", "bytes", "list", "map"}),
}


def check_when(entry: Entry, source: Source) -> None:
    """The condition of an entry must be applicable to its source."""
    if entry.when != "always":
        check_asked(entry.when, source, entry.keys["when"])


def check_asked(word: str, source: Source, place: Place) -> None:
    """The condition ``word`` must be applicable to the source."""
    if word == "set":
        fits = source.presence or source.kind.optional
    else:
        fits = source.kind.name in _WHEN_FITS[word]
    if not fits:
        raise SpecError(
            f"when: {word} does not apply to {source.path}, which is {source.kind}",
            place,
            "set is for what has presence, nonzero for numbers and booleans, nonempty for "
            "strings, lists and maps",
            "when-does-not-fit",
        )


def check_fit(entry: Entry, doing: str, kind: Kind, target: Kind) -> None:
    """A value of ``kind`` must fit the target."""
    reason = kinds.why_not(kind, target)
    if reason is None:
        return
    narrowing = kinds.is_narrowing(kind, target)
    raise SpecError(
        f"{doing}: {reason}",
        entry.value_place,
        (
            "add a rule that says what happens to the rest, such as nonnegative or "
            f"range: [{target.low}, {target.high}]"
            if narrowing
            else "compute it by a transform"
        ),
        "narrowing-without-rule" if narrowing else "type-does-not-fit",
    )
