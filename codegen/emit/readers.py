"""generated/statuses/<message>.py: a block for each field of a response message."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.emit.python import called, free, imports, is_set, value
from codegen.model import ComputedBack, CopiedBack, Descended, Kind, Left, Read, snake
from codegen.plan import Parameter, Reader
from codegen.plan import called as called_in_nested


@dataclass(frozen=True, slots=True)
class ReaderText:
    """The variables of the template."""

    message: str
    imports: list[str]
    parameters: tuple[Parameter, ...]
    given: str
    """The arguments that ``read`` passes to ``fill``."""
    lines: list[str]
    """The statements that fill the message."""
    left: list[str]
    """Fields that hand-written functions set."""
    may_be_empty: bool
    """Whether the message must be marked as present, because no statement always does so."""


def text(reader: Reader) -> ReaderText:
    """The reader of one message."""
    reads = reader.mapped.reads
    taken = reader.names.taken
    lines = [line for read in reads for line in _lines(reader, read, taken)]
    parameters = reader.names.parameters
    return ReaderText(
        reader.mapped.message.name,
        imports(reader.names.imports),
        parameters,
        ", ".join(["out", *(f"{p.name}={p.name}" for p in parameters)]),
        lines,
        [read.entry.name for read in reads if read.entry.fate == "handled_by"],
        not any(_is_always_set(reader, read) for read in reads),
    )


def _is_always_set(reader: Reader, read: Read) -> bool:
    """Whether the statement always sets the field."""
    match read:
        case CopiedBack(source=source):
            maybe = source.presence or source.kind.optional or read.unset_if_empty
            return not maybe and _kind(reader, read).name not in ("list", "map")
        case ComputedBack(call=call):
            return not call.returns.optional and _kind(reader, read).name not in ("list", "map")
    return False


def _kind(reader: Reader, read: Read) -> Kind:
    return reader.mapped.message.fields[read.entry.name].kind


def _lines(reader: Reader, read: Read, taken: set[str]) -> Iterator[str]:
    name = read.entry.name
    match read:
        case Left(entry):
            said = f"unmapped, {entry.value}" if entry.fate == "unmapped" else "handled by "
            yield f"# {name}: {said}{entry.value if entry.fate == 'handled_by' else ''}"
        case CopiedBack():
            yield f"# {name} <- {read.source.path}"
            yield from _copied(reader, read, taken)
        case ComputedBack():
            yield f"# {name} <- {read.by}"
            made = called(read.call, reader.names, {})
            yield from _given(reader, read, made, read.call.returns.optional, taken)
        case Descended() if read.message not in reader.nested:
            yield f"# {name}: by the entries of {read.message}; none is read by an entry"
        case Descended():
            yield _of(read)
            yield from _nested(reader, read, taken)


def _of(read: Descended) -> str:
    comment = f"# {read.entry.name}: by the entries of {read.message}"
    return comment if read.of is None else f"{comment}, of {read.of.path}"


def _nested(reader: Reader, read: Descended, taken: set[str]) -> Iterator[str]:
    """The call of the nested reader: once per item of a list, and not at all if the value is
    None."""
    name = read.entry.name
    module = reader.names.modules["statuses", snake(read.message)]
    own = called_in_nested(read.of) if read.of is not None else ""
    known = value(read.of) if read.of is not None else ""

    def call(out: str, of: str) -> str:
        names = reader.nested[read.message]
        given = (f"{n}={of if n == own else f'{of}.{n}' if n in read.parts else n}" for n in names)
        return f"{module}.fill({', '.join([out, *given])})"

    if read.each:
        # one name per list, because their items have different types
        lists = [r for r in reader.mapped.reads if isinstance(r, Descended) and r.each]
        item = "item" if len(lists) == 1 else free(f"{name}_item", taken)
        yield f"for {item} in {known}:"
        yield f"    {call(f'out.{name}.add()', item)}"
    elif read.of is not None and read.of.kind.optional and own:
        local = free(name, taken)
        yield f"if ({local} := {known}) is not None:"
        yield f"    {call(f'out.{name}', local)}"
    elif read.of is not None and read.of.kind.optional:
        yield f"if {known} is not None:"
        yield f"    {call(f'out.{name}', known)}"
    else:
        yield call(f"out.{name}", known)


def _copied(reader: Reader, read: CopiedBack, taken: set[str]) -> Iterator[str]:
    source, text = read.source, value(read.source)
    if source.presence:
        yield f"if {is_set(source)}:"
        yield f"    {_placed(reader, read, text)}"
    elif read.unset_if_empty and not source.kind.optional:
        yield f"if {text}:"
        yield f"    {_placed(reader, read, text)}"
    else:
        yield from _given(reader, read, text, source.kind.optional, taken)


def _given(
    reader: Reader, read: CopiedBack | ComputedBack, text: str, maybe: bool, taken: set[str]
) -> Iterator[str]:
    """The statements that store a value, which may be None if ``maybe``."""
    if not maybe:
        yield _placed(reader, read, text)
        return
    local = free(read.entry.name, taken)
    unset = isinstance(read, CopiedBack) and read.unset_if_empty
    yield f"if {local} := {text}:" if unset else f"if ({local} := {text}) is not None:"
    yield f"    {_placed(reader, read, local)}"


def _placed(reader: Reader, read: CopiedBack | ComputedBack, text: str) -> str:
    place = f"out.{read.entry.name}"
    if isinstance(read, CopiedBack) and read.wrapper is not None:
        return f"{place}.value = {text}"
    match _kind(reader, read).name:
        case "message":
            return f"{place}.CopyFrom({text})"
        case "list":
            return f"{place}.extend({text})"
        case "map":
            return f"{place}.update({text})"
    return f"{place} = {text}"
