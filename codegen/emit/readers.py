"""generated/statuses/<message>.py: one keyword of the answered message for each field."""

from __future__ import annotations

from dataclasses import dataclass

from codegen.emit.python import called, imports, value, value_or_none
from codegen.model import ComputedBack, CopiedBack, Descended, Left, Read, snake
from codegen.plan import Parameter, Reader


@dataclass(frozen=True, slots=True)
class Keyword:
    """One keyword argument; without a text only a comment."""

    comment: str
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ReaderText:
    """What the template places."""

    message: str
    imports: list[str]
    parameters: tuple[Parameter, ...]
    keywords: list[Keyword]
    left: list[str]
    """Fields that hand-written functions set."""


def text(reader: Reader) -> ReaderText:
    """The reader of one message."""
    reads = reader.mapped.reads
    return ReaderText(
        reader.mapped.message.name,
        imports(reader.names.imports),
        reader.names.parameters,
        [_keyword(reader, read) for read in reads],
        [read.entry.name for read in reads if read.entry.fate == "handled_by"],
    )


def _keyword(reader: Reader, read: Read) -> Keyword:
    name = read.entry.name
    match read:
        case Left(entry) if entry.fate == "unmapped":
            return Keyword(f"{name}: unmapped, {entry.value}")
        case Left(entry):
            return Keyword(f"{name}: handled by {entry.value}")
        case CopiedBack():
            return Keyword(f"{name} <- {read.source.path}", f"{name}={_copied(read)}")
        case ComputedBack():
            return Keyword(f"{name} <- {read.by}", f"{name}={called(read.call, reader.names, {})}")
        case Descended() if read.message not in reader.nested:
            comment = f"{name}: by the entries of {read.message}; none is read by an entry"
            return Keyword(comment)
        case Descended():
            module = reader.names.modules[f"generated.statuses.{snake(read.message)}"]
            given = ", ".join(f"{n}={n}" for n in reader.nested[read.message])
            comment = f"{name}: by the entries of {read.message}"
            return Keyword(comment, f"{name}={module}.read({given})")


def _copied(read: CopiedBack) -> str:
    if read.source.presence:
        return value_or_none(read.source)
    text = value(read.source)
    return f"{text} or None" if read.unset_if_empty else text
