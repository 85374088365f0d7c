"""``cri-codegen stubs``: entries for what a new version of the API adds, to be decided by a person.

A field gets an entry ``unmapped: undecided`` in its message's file, a new message a file, and a new
RPC an entry in rpc.yaml. ``check`` refuses each until it is decided. The comments of the published
API stand there too, if it was imported on this machine.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from codegen import load, mapping_file, project, rpc, upstream
from codegen.errors import Problems
from codegen.load import MappingNode
from codegen.model import Api, Field, MappingFile, Message, Method, Service, rpc_key
from codegen.project import Settings

Comments = Mapping[str, str]
"""Of the published API, by field, as in ``Order.lines``, or RPC."""
WORD = "undecided"
_WIDTH = 98
_EMPTY = re.compile(r"^fields: *\{ *\}", re.M)


def stubs(root: Path, api: Api) -> dict[str, str]:
    """{path: text} of the files of spec/ that lack entries, with an entry for each.

    Raises SpecError if the mapping or rpc.yaml cannot be read.
    """
    problems = Problems()
    files, _ = mapping_file.read_all(root, problems)
    written = load.text_file(root, rpc.FILE) if (root / rpc.FILE).exists() else ""
    node = problems.attempt(lambda: load.yaml_text(written, rpc.FILE)) if written else None
    problems.stop_if_any()
    settings = project.read(root)
    proto = settings.api.proto(api.version)
    said = upstream.kept(load.text_file(root, proto)) if (root / proto).is_file() else {}
    found = {f"{settings.output}/{name}": text for name, text in project.schemas().items()}
    requests, responses = _roots(api)
    received = _reached(api, requests, {n for n, f in files.items() if not f.takes})
    sent = _reached(api, responses, {n for n, f in files.items() if not f.gives})
    for message in api.messages.values():
        if message.name in files:
            file = files[message.name]
            decided = {*file.entries, *file.faulty}
            renamed = api.former.renamed_in(message.name)
            decided |= {now for now, was in renamed.items() if was in decided}
            missing = [f for f in message.fields.values() if f.name not in decided]
            if missing:
                found[file.file] = _with_entries(root, api, file, missing, said)
        elif api.former.was(message.name) not in files:
            flow = "out" if message.name not in received else "in"
            flow = "both" if message.name in received & sent else flow
            found[f"{mapping_file.FOLDER}/{message.module}.yaml"] = _file(
                settings, api, message, flow, said
            )
    named = {key.value for key, _ in node.items()} if isinstance(node, MappingNode) else set()
    missing_rpcs = [
        (service.name, method)
        for service in api.services.values()
        for method in service.methods.values()
        if named.isdisjoint(_keys(api, service, method))
    ]
    if missing_rpcs:
        text = written.rstrip("\n") or settings.schema_line(rpc.FILE, "rpc")
        found[rpc.FILE] = text + "\n" + "".join(_rpc(api, s, m, said) for s, m in missing_rpcs)
    return found


def _keys(api: Api, service: Service, method: Method) -> Iterator[str]:
    """The keys of rpc.yaml that an RPC has, or had before it was renamed or another service got
    one of its name: ``check`` asks to rename such an entry."""
    yield rpc_key(service.name, method.name, api.services)
    was = api.former.was(f"{service.name}.{method.name}")
    if was is not None:
        yield was.rpartition(".")[2]
    if api.former.had(f"{service.name}.{method.name}"):
        yield method.name


def _roots(api: Api) -> tuple[set[str], set[str]]:
    methods = [m for service in api.services.values() for m in service.methods.values()]
    return {m.request for m in methods}, {m.response for m in methods}


def _reached(api: Api, names: Iterable[str], closed: Collection[str]) -> set[str]:
    """The messages that ``names`` hold, directly or not, and ``names`` themselves; what messages in
    ``closed`` hold does not count."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found and name in api.messages and name not in closed:
            found.add(name)
            pending += [f.message for f in api.messages[name].fields.values() if f.message]
    return found


def _with_entries(
    root: Path, api: Api, file: MappingFile, fields: Iterable[Field], said: Comments
) -> str:
    """The file's text with entries at the end of its ``fields``."""
    lines = load.text_file(root, file.file).rstrip("\n").split("\n")
    end = len(lines)
    node = load.yaml_file(root, file.file)
    assert isinstance(node, MappingNode)
    fields_key = node.key("fields")
    assert fields_key is not None
    after = [key.place.line for key, _ in node.items() if key.place > fields_key.place]
    if after:
        end = min(after) - 1
        while end and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
            end -= 1
    if not file.entries:
        at = fields_key.place.line - 1
        lines[at] = _EMPTY.sub("fields:", lines[at])
    added = "".join(_entry(api, file.message, f, said) for f in fields).rstrip("\n").split("\n")
    if not file.entries:
        added = added[1:]  # no blank line below "fields:"
    return "\n".join([*lines[:end], *added, *lines[end:]]) + "\n"


def _file(settings: Settings, api: Api, message: Message, flow: str, said: Comments) -> str:
    file = f"{mapping_file.FOLDER}/{message.module}.yaml"
    head = f"{settings.schema_line(file, 'mapping')}\nmessage: {api.package}.{message.name}\n"
    head += f"flow: {flow}\n"
    if not message.fields:
        return head + "fields: {}\n"
    return (
        head
        + "fields:\n"
        + "".join(_entry(api, message.name, f, said) for f in message.fields.values()).removeprefix(
            "\n"
        )
    )


def _entry(api: Api, message: str, field: Field, said: Comments) -> str:
    old = ", deprecated" if field.deprecated else ""
    return (
        f"\n  {_key(field.name)}:\n"
        f"{_as_yaml(said.get(f'{message}.{field.name}'), '    ')}"
        f"    unmapped: {WORD}\n"
        f"    why: To be decided. {field.kind_in_words}, number {field.number},"
        f" since {api.name} {field.since}{old}.\n"
    )


def _key(name: str) -> str:
    return f'"{name}"' if name in ("true", "false", "null") else name


def _rpc(api: Api, service: str, method: Method, said: Comments) -> str:
    return (
        f"\n{rpc_key(service, method.name, api.services)}:\n"
        f"{_as_yaml(said.get(f'{service}.{method.name}'), '  ')}"
        f"  unserved: {{issue: {WORD}}}\n"
        f"  why: To be decided. Takes {'a stream of ' * method.takes_stream}{method.request} and"
        f" gives {'a stream of ' * method.streams}{method.response}, since {api.name}"
        f" {method.since}.\n"
    )


def _as_yaml(comment: str | None, indent: str) -> str:
    """A comment as lines of a YAML comment, whatever it contains; "" for none."""
    width = _WIDTH - len(indent)
    clean = upstream.lines(comment or "")
    wrapped = (textwrap.wrap(line, width, break_on_hyphens=False) or [""] for line in clean)
    return "".join(f"{indent}# {line}".rstrip() + "\n" for part in wrapped for line in part)


def fields(api: Api, files: Mapping[str, MappingFile]) -> Iterator[tuple[Message, Field]]:
    """Every field whose entry is missing or undecided."""
    for message in api.messages.values():
        entries = files[message.name].entries if message.name in files else {}
        for field in message.fields.values():
            entry = entries.get(field.name)
            if entry is None or (entry.fate == "unmapped" and entry.value == WORD):
                yield message, field
