"""generated/statuses/<message>.py: one keyword of the answered message for each field."""

from __future__ import annotations

from dataclasses import dataclass

from codegen.emit.python import called, imports, value, value_or_none
from codegen.model import ComputedBack, CopiedBack, Descended, Left, Read, snake
from codegen.plan import Parameter, Reader
from codegen.plan import called as called_in_nested


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
            return Keyword(_of(read), f"{name}={_nested(read, module, reader)}")


def _of(read: Descended) -> str:
    comment = f"{read.entry.name}: by the entries of {read.message}"
    return comment if read.of is None else f"{comment}, of {read.of.path}"


def _nested(read: Descended, module: str, reader: Reader) -> str:
    """The call of the reader below, for each item of a list, and None where there is nothing."""
    own = called_in_nested(read.of) if read.of is not None else ""
    known = value(read.of) if read.of is not None else ""
    each = "item" if read.each else known
    given = ", ".join(f"{n}={each if n == own else n}" for n in reader.nested[read.message])
    call = f"{module}.read({given})"
    if read.each:
        return f"[{call} for item in {known}]"
    optional = read.of is not None and read.of.kind.optional
    return f"({call} if {known} is not None else None)" if optional else call


def _copied(read: CopiedBack) -> str:
    if read.source.presence:
        return value_or_none(read.source)
    text = value(read.source)
    if read.wrapper is not None:
        wrapped = f"api_pb2.{read.wrapper}(value={text})"
        return (
            f"({wrapped} if {text} is not None else None)" if read.source.kind.optional else wrapped
        )
    return f"{text} or None" if read.unset_if_empty else text
