"""Everything that the pages show, as records; ``gather`` is the only function that looks it up."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codegen import backwards, plan
from codegen.backwards import Link
from codegen.errors import Place
from codegen.generate import MANIFEST, Counts, Translation, counts
from codegen.lifecycle import Lifecycle
from codegen.mapping_diff import rule_text
from codegen.model import Entry, Field, Mapped, Message, Plan
from codegen.named import Named
from codegen.project import Settings
from codegen.rpc import Rpc, Rpcs
from codegen.site import excerpts, history, mentions, requests
from codegen.site.excerpts import Blocks, Excerpt, Files
from codegen.site.history import History
from codegen.site.mentions import Mention, Mentions

UNDECIDED = "undecided"
FATES = ("copy", "compute", "match", "handled by", "unmapped", UNDECIDED)
"""The first words of every fate, in the order of the drawings."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function that an entry names, with its source."""

    name: str
    source: Excerpt


@dataclass(frozen=True)
class Row:
    """One entry: a field with or without one, or a target that no field decides."""

    message: str
    name: str
    field: Field | None
    """None for an entry under ``targets``."""
    entry: Entry | None
    """None if the field is undecided."""
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    functions: tuple[Function, ...]
    excerpt: Excerpt | None
    blocks: tuple[Excerpt, ...]
    tests: tuple[Mention, ...]
    requests: tuple[str, ...]
    changes: tuple[tuple[str, Named], ...]
    """By version, what happened to the field."""

    @property
    def anchor(self) -> str:
        """The fragment of its row on the page of its message."""
        return self.name

    @property
    def fate(self) -> str:
        """The fate in words, as in the counts."""
        if self.entry is None:
            return UNDECIDED
        return "handled by rpc.yaml" if self.entry.by_rpc else self.entry.fate_in_words

    @property
    def kind_of_fate(self) -> str:
        """The first words of the fate, one of ``FATES``."""
        return next(fate for fate in FATES if self.fate.startswith(fate))

    @property
    def since(self) -> str:
        return self.field.since if self.field is not None else ""

    @property
    def why(self) -> str:
        return self.entry.why if self.entry is not None else ""

    @property
    def place(self) -> str:
        """What the field is copied to or from, and by what; "" if its own message decides it."""
        if self.entry is None or self.entry.fate == "unmapped" or self.entry.by_fields:
            return ""
        return self.entry.value_in_words

    @property
    def rules(self) -> tuple[str, ...]:
        return tuple(map(rule_text, self.entry.rules)) if self.entry is not None else ()

    @property
    def rule_names(self) -> tuple[str, ...]:
        return tuple(rule.name for rule in self.entry.rules) if self.entry is not None else ()


@dataclass(frozen=True)
class Use:
    """Where a message occurs: an RPC, or a field of another message."""

    rpc: str
    role: str
    """``request`` or ``response``."""
    message: str
    field: str


@dataclass(frozen=True)
class Part:
    """One message."""

    message: Message
    mapped: Mapped | None
    rows: tuple[Row, ...]
    """Its fields, in the order of the proto, then the targets that no field decides."""
    uses: tuple[Use, ...]
    rpcs: tuple[str, ...]
    """Every RPC that carries it, directly or inside another message."""
    changes: tuple[tuple[str, Named], ...]

    @property
    def fields(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.field is not None)

    @cached_property
    def homes(self) -> dict[str, str]:
        """{function: the first row that calls it}, where its source is shown."""
        calls = [(function.name, row.anchor) for row in self.rows for function in row.functions]
        return dict(reversed(calls))

    @cached_property
    def shares(self) -> list[tuple[str, int]]:
        """The number of fields of each fate that occurs, in the order of the drawings."""
        found = Counter(row.kind_of_fate for row in self.fields)
        return [(fate, found[fate]) for fate in FATES if found[fate]]


@dataclass(frozen=True)
class RpcPart:
    """One RPC."""

    rpc: Rpc
    service: str
    excerpt: Excerpt | None
    handler: Excerpt | None
    method: Function | None
    """The hand-written method that serves it."""
    tests: tuple[Mention, ...]
    requests: tuple[str, ...]
    changes: tuple[tuple[str, Named], ...]


@dataclass(frozen=True)
class Site:
    """Everything."""

    name: str
    settings: Settings
    version: str
    parts: Mapping[str, Part]
    rpcs: Mapping[str, RpcPart]
    services: Mapping[str, tuple[str, ...]]
    lifecycle: Lifecycle | None
    links: tuple[Link, ...]
    docs: Mapping[str, tuple[str, ...]]
    """{plan value: its meanings}, one for each plan that has it."""
    history: History
    counts: Counts
    against: tuple[str, tuple[Named, ...]] | None
    """A revision, and what changed since."""
    stale: bool
    """Whether the generated code was made from another specification."""

    def _by_name(self, *roles: str) -> dict[str, list[Link]]:
        found: dict[str, list[Link]] = {}
        for link in self.links:
            if link.role in roles:
                found.setdefault(link.name, []).append(link)
        return found

    @cached_property
    def written(self) -> dict[str, list[Link]]:
        """{target: who writes it}."""
        return self._by_name(backwards.WRITTEN)

    @cached_property
    def read(self) -> dict[str, list[Link]]:
        """{source: what it is read for}."""
        return self._by_name(backwards.READ)

    @cached_property
    def called(self) -> dict[str, list[Link]]:
        """{function: what calls it}, without those of RPCs."""
        found = self._by_name(*backwards.CALLS)
        return {name: links for name, links in found.items() if not name.startswith("rpc.")}

    @property
    def links_written(self) -> list[Link]:
        return [link for links in self.written.values() for link in links]

    @cached_property
    def _row_at(self) -> dict[Place, Row]:
        every = (row for part in self.parts.values() for row in part.rows)
        return {row.entry.place: row for row in every if row.entry is not None}

    def row(self, link: Link) -> Row:
        """The row of the entry of a link."""
        return self._row_at[link.entry.place]

    @cached_property
    def waiting(self) -> list[Row]:
        """The fields that are not decided, or not served yet."""
        return [row for row in self.rows if row.entry is None or row.entry.issue]

    @cached_property
    def by_since(self) -> list[tuple[str, int]]:
        """The number of fields that each version brought."""
        found = Counter(row.since for row in self.rows)
        return [(version, found[version]) for version in self.history.versions]

    def subject(self, name: str) -> tuple[str, str]:
        """(what it is, its name) of the subject of a change, if it has a page or a row:
        ``message``, ``field`` or ``rpc``; otherwise two empty words."""
        name = name.partition(":")[0]
        owner, _, last = name.rpartition(".")
        if name in self.parts:
            return "message", name
        if owner in self.parts and any(row.anchor == last for row in self.parts[owner].rows):
            return "field", name
        if owner in self.services and last in self.rpcs:
            return "rpc", last
        return "", ""

    @cached_property
    def rows(self) -> list[Row]:
        """Every field."""
        return [row for part in self.parts.values() for row in part.fields]

    @cached_property
    def shares(self) -> list[tuple[str, int]]:
        """The number of fields of each fate, in the order of the drawings."""
        found = Counter(row.fate for row in self.rows)
        every = [(fate, count) for fate, count in sorted(found.items())]
        return sorted(every, key=lambda pair: _order(pair[0]))


def _order(fate: str) -> int:
    return next(number for number, known in enumerate(FATES) if fate.startswith(known))


def gather(
    root: Path,
    found: Translation,
    rpcs: Rpcs | None,
    lifecycle: Lifecycle | None,
    against: tuple[str, tuple[Named, ...]] | None = None,
) -> Site:
    """Everything about the specification in ``root``, which may have faults."""
    files, settings = Files(root), found.settings
    looked_up = _Gathering(
        found,
        files,
        excerpts.blocks(files, settings.output),
        mentions.read(files, "tests"),
        history.read(root, settings.api, found.api.version),
        requests.read(files, found.api, found.files),
        rpcs or Rpcs(()),
    )
    parts = {message.name: looked_up.part(message) for message in found.api.messages.values()}
    known = {row.entry.place for part in parts.values() for row in part.rows if row.entry}
    return Site(
        name=_name(root),
        settings=settings,
        version=found.api.version,
        parts=parts,
        rpcs={
            rpc.name: looked_up.rpc(service.name, rpc)
            for service in looked_up.rpcs.services
            for rpc in service.rpcs
        },
        services={
            service.name: tuple(rpc.name for rpc in service.rpcs)
            for service in looked_up.rpcs.services
        },
        lifecycle=lifecycle,
        links=tuple(link for link in looked_up.links if link.entry.place in known),
        docs=_docs(found.plans.values()),
        history=looked_up.history,
        counts=counts(found.files.values()),
        against=against,
        stale=_stale(root, settings.output),
    )


def _docs(plans: Iterable[Plan]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for one in plans:
        for name, value in one.fields.items():
            found.setdefault(f"{one.root}.{name}", {})[value.doc] = None
    return {path: tuple(docs) for path, docs in found.items()}


def _name(root: Path) -> str:
    """The project's name."""
    import tomllib

    path = root / "pyproject.toml"
    if not path.is_file():
        return root.resolve().name
    return str(tomllib.loads(path.read_text()).get("project", {}).get("name", root.name))


def _stale(root: Path, output: str) -> bool:
    """Whether a file of spec/ is not the one that the folder ``output`` was made from."""
    path = root / output / MANIFEST
    if not path.is_file():
        return True
    inputs: dict[str, str] = json.loads(path.read_text())["inputs"]
    return any(
        name.startswith("spec/") and _digest(root / name) != digest
        for name, digest in inputs.items()
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@dataclass
class _Gathering:
    """What is looked up once for all pages."""

    found: Translation
    files: Files
    blocks: Blocks
    mentions: Mentions
    history: History
    requests: Mapping[tuple[str, str], frozenset[str]]
    rpcs: Rpcs

    @cached_property
    def links(self) -> tuple[Link, ...]:
        return tuple(backwards.every(self.found))

    @cached_property
    def _links_of(self) -> dict[Place, list[Link]]:
        found: dict[Place, list[Link]] = {}
        for link in self.links:
            found.setdefault(link.entry.place, []).append(link)
        return found

    @cached_property
    def _plan_functions(self) -> dict[Place, set[str]]:
        """The functions that create the plans, or what else is computed at once, to which an entry
        gives a value."""
        found: dict[Place, set[str]] = {}
        for one in [*self.found.plans.values(), *self.found.payloads]:
            for planned in plan.planned(self.found.mapped, one, one.message, ()):
                found.setdefault(planned.write.entry.place, set()).update((one.function, one.name))
        return found

    @cached_property
    def _unique(self) -> frozenset[str]:
        """The names of fields that only one message has."""
        every = Counter(name for m in self.found.api.messages.values() for name in m.fields)
        return frozenset(name for name, count in every.items() if count == 1)

    @cached_property
    def _uses(self) -> dict[str, list[Use]]:
        found: dict[str, list[Use]] = {}
        for rpc in self.rpcs.all:
            found.setdefault(rpc.method.request, []).append(Use(rpc.name, "request", "", ""))
            found.setdefault(rpc.method.response, []).append(Use(rpc.name, "response", "", ""))
        for message in self.found.api.messages.values():
            for field in message.fields.values():
                if field.message is not None:
                    use = Use("", "", message.name, field.name)
                    found.setdefault(field.message, []).append(use)
        return found

    @cached_property
    def _carried(self) -> dict[str, list[str]]:
        """{message: every RPC that carries it}."""
        found: dict[str, list[str]] = {}
        for rpc in self.rpcs.all:
            reached: set[str] = set()
            pending = [rpc.method.request, rpc.method.response]
            while pending:
                name = pending.pop()
                if name in reached or name not in self.found.api.messages:
                    continue
                reached.add(name)
                fields = self.found.api.messages[name].fields.values()
                pending += [field.message for field in fields if field.message]
            for name in reached:
                found.setdefault(name, []).append(rpc.name)
        return found

    @cached_property
    def _classes(self) -> dict[str, str]:
        return self.files.classes(self.found.settings.code)

    # --- messages

    def part(self, message: Message) -> Part:
        mapped = self.found.mapped.get(message.name)
        rows = [
            self._row(message, field.name, field, _entry_of(mapped, field.name))
            for field in message.fields.values()
        ]
        targets = mapped.file.targets.values() if mapped is not None else ()
        rows += [self._row(message, entry.name, None, entry) for entry in targets]
        return Part(
            message,
            mapped,
            tuple(rows),
            tuple(self._uses.get(message.name, ())),
            tuple(self._carried.get(message.name, ())),
            tuple(self.history.of(message.name)),
        )

    def _row(
        self,
        message: Message,
        name: str,
        field: Field | None,
        entry: Entry | None,
    ) -> Row:
        links = self._links_of.get(entry.place, []) if entry is not None else []
        functions = tuple(self._functions(links))
        changes = self.history.of(f"{message.name}.{name}") if field is not None else []
        return Row(
            message=message.name,
            name=name,
            field=field,
            entry=entry,
            targets=_names(links, backwards.WRITTEN),
            sources=_names(links, backwards.READ),
            functions=functions,
            excerpt=self.files.yaml_entry(entry.place) if entry is not None else None,
            blocks=tuple(self._blocks(message, entry, links)) if entry is not None else (),
            tests=self._tests(message, name, field, functions),
            requests=tuple(sorted(self.requests.get((message.name, name), ()))),
            changes=tuple(changes),
        )

    def _functions(self, links: Iterable[Link]) -> Iterator[Function]:
        for name in sorted({link.name for link in links if link.role in backwards.CALLS}):
            source = self._source_of(name)
            if source is not None:
                yield Function(name, source)

    def _source_of(self, name: str) -> Excerpt | None:
        sources = self.found.paths.sources
        topic, _, function = name.partition(".")
        transform = sources.transform(topic, function)
        if transform is not None:
            return self.files.function(transform.place)
        found = sources.function(name)
        return self.files.function(Place(found[0], found[1].lineno, 0)) if found else None

    def _blocks(self, message: Message, entry: Entry, links: list[Link]) -> Iterator[Excerpt]:
        """In the modules of its message, and where plans are created; without the tests that every
        text and every enum gets."""
        for block in self.blocks.of_module(message.module, entry.name):
            if entry.rules or "/validators/" not in block.excerpt.file:
                yield block.excerpt
        creators = self._plan_functions.get(entry.place, set())
        for target in _names(links, backwards.WRITTEN):
            for file in self.blocks.found:
                here = self.blocks.of(file, target) if file.count("/") == 1 else []
                own = [block for block in here if block.function in creators]
                yield from (block.excerpt for block in own)

    def _tests(
        self, message: Message, name: str, field: Field | None, functions: Iterable[Function]
    ) -> tuple[Mention, ...]:
        called = {t for f in functions for t in self.mentions.of_word(f.name)}
        named: frozenset[Mention] = frozenset()
        if field is not None:
            named = self.mentions.of_field(message.name, name, unique=name in self._unique)
        both = called & named
        return tuple(
            sorted(called | named, key=lambda t: (t not in both, t not in called, t.file, t.line))
        )

    # --- RPCs

    def rpc(self, service: str, rpc: Rpc) -> RpcPart:
        module = self.found.api.services[service].module
        return RpcPart(
            rpc,
            service,
            self.files.yaml_entry(rpc.place),
            self.files.method(
                f"{self.found.settings.output}/handlers/{module}.py", service, rpc.method.name
            ),
            self._method(rpc),
            tuple(sorted(self.mentions.of_word(rpc.method.name), key=lambda t: (t.file, t.line))),
            tuple(sorted(self.requests.get(("", rpc.name), ()))),
            tuple(self.history.of(f"{service}.{rpc.method.name}")),
        )

    def _method(self, rpc: Rpc) -> Function | None:
        if rpc.operation is None:
            return None
        noun = next(n for n in self.rpcs.nouns if n.name == rpc.operation.noun)
        file = self._classes.get(noun.python_class)
        found = self.files.method(file, noun.python_class, rpc.operation.method) if file else None
        return Function(str(rpc.operation), found) if found is not None else None


def _entry_of(mapped: Mapped | None, name: str) -> Entry | None:
    return mapped.file.entries.get(name) if mapped is not None else None


def _names(links: Iterable[Link], role: str) -> tuple[str, ...]:
    return tuple(sorted({link.name for link in links if link.role == role}))
