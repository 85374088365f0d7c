"""spec/project.yaml as a record: what the specification is about, and where its parts are."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from codegen import load
from codegen.errors import Place, Problems, SpecError
from codegen.load import Node
from codegen.nodes import child, items, mapping, optional, text

FILE = "spec/project.yaml"
SCHEMAS = "schemas"
"""The folder of the output with the JSON Schemas of the YAML files."""


@dataclass(frozen=True, slots=True)
class ServedApi:
    """The API that is served."""

    name: str
    """What messages and pages call it."""
    package: str
    protos: str
    """The folder with its pinned versions."""

    @property
    def folder(self) -> str:
        """The name of the folder with its stubs."""
        return PurePosixPath(self.protos).name

    def proto(self, version: str) -> str:
        """The file of a pinned version."""
        return f"{self.protos}/{version}.proto"


@dataclass(frozen=True, slots=True)
class WrittenDocument:
    """The JSON document that requests are translated into."""

    name: str
    schema: str
    root: str
    """Its object in the schema."""

    @property
    def folder(self) -> str:
        """The name of the folder with its types and builders."""
        return PurePosixPath(self.schema).parent.name


@dataclass(frozen=True, slots=True)
class WrittenRecord:
    """A message of another API that requests are translated into as well."""

    name: str
    proto: str
    message: str

    @property
    def folder(self) -> str:
        """The name of the folder with its stubs."""
        return PurePosixPath(self.proto).parent.name

    @property
    def stub(self) -> str:
        """The module of its stubs."""
        return f"{PurePosixPath(self.proto).stem}_pb2"


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of a published descriptor set that become one proto: those of ``package`` whose
    path ends with ``path``."""

    package: str
    path: str

    def takes(self, package: str, path: str) -> bool:
        """Whether a file of this package and path is one of them."""
        return package == self.package and path.endswith(self.path)


@dataclass(frozen=True, slots=True)
class Clients:
    """Other APIs that hand-written code is a client of."""

    name: str
    """What messages and pages call them."""
    protos: str
    """The folder with their protos."""
    files: Mapping[str, Selection]
    """What is imported, by the name of the proto."""

    @property
    def folder(self) -> str:
        """The name of the folder with their stubs."""
        return PurePosixPath(self.protos).name


@dataclass(frozen=True, slots=True)
class Payload:
    """A JSON object for another program, made of one message."""

    name: str
    """What messages and pages call it."""
    schema: str
    root: str
    """Its object in the schema. Empty values of it are left out."""
    also: Mapping[str, str]
    """Further objects of the schema, by the word that leads to them in a target."""


@dataclass(frozen=True, slots=True)
class Default:
    """A file that is available to hand-written code as Python."""

    form: str
    """``document``, ``json`` or ``text``."""
    file: str
    says: str
    """What it is."""
    schema: str | None = None
    """What JSON must follow, if it is not the document."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything in spec/project.yaml."""

    api: ServedApi
    document: WrittenDocument
    record: WrittenRecord | None
    clients: Clients | None
    payloads: Mapping[str, Payload]
    """By the word that targets begin with."""
    defaults: Mapping[str, Default]
    objects: Mapping[str, str]
    """The objects with a lifecycle, and the API's enum of their states."""
    events: str | None
    """The API's enum of events."""
    singular: Mapping[str, str]
    """Of nouns whose singular is not the noun without its s."""
    code: str
    """The package with the hand-written code."""
    output: str
    """The generated package."""

    @property
    def stubs(self) -> str:
        """The package with the stubs of the API."""
        return f"{self.output}.{self.api.folder}"

    @property
    def builders(self) -> str:
        """The package with the types of the document and its builders."""
        return f"{self.output}.{self.document.folder}"

    @property
    def transforms(self) -> str:
        """The package with the pure functions."""
        return f"{self.code}.transforms"

    @property
    def facts(self) -> str:
        """The file with the classes that mapping paths begin with."""
        return f"{self.code}/transforms/facts.py"

    def schema_line(self, file: str, kind: str) -> str:
        """The first line of the YAML file ``file``, by which editors find the schema of its
        kind."""
        path = f"{'../' * file.count('/')}{self.output}/{SCHEMAS}/{kind}.schema.json"
        return f"# yaml-language-server: $schema={path}"


def schemas() -> dict[str, str]:
    """{path in the output: text} of the JSON Schemas of the YAML files, for editors."""
    return {
        f"{SCHEMAS}/{path.name}": path.read_text()
        for path in sorted(load.LANGUAGE.glob("*.schema.json"))
    }


_TAKEN = {
    "filters", "handlers", "items", "lifecycle", "metrics", "plans", "provenance", "schemas",
    "statuses", "validators",
}  # fmt: skip
"""What the output has in every project."""
_ROOTS = {"item", "out", "plan", "record"}
"""What targets may already begin with."""


def _check(node: Node, settings: Settings) -> None:
    """Raise SpecError with the names that cannot stand beside each other, or in Python."""
    problems = Problems()
    owners: dict[str, str] = dict.fromkeys(_TAKEN, "of what is always generated")
    named = [("api", "protos", settings.api.folder)]
    named.append(("document", "schema", settings.document.folder))
    named += [("payloads", word, word) for word in settings.payloads]
    if settings.clients is not None:
        named.append(("clients", "protos", settings.clients.folder))
    elif settings.record is not None:
        named.append(("record", "proto", settings.record.folder))
    for *path, name in named:
        place, where = _place(node, path), ".".join(path)
        if name in owners or (path[0] == "payloads" and name in _ROOTS):
            problems.add(
                f"{where} generates {name}, the name {owners.get(name, 'of other targets')}",
                place,
                "give its folder in spec/ another name" if path[0] != "payloads" else "rename it",
            )
        owners.setdefault(name, f"of {where}")
    words = [*named, ("code", settings.code), ("output", settings.output)]
    words += [("objects", name, name) for name in settings.objects]
    words += [("defaults", name, name) for name in settings.defaults]
    for *path, name in words:
        if keyword.iskeyword(name):
            problems.add(f"{name} is a keyword of Python", _place(node, path), "rename it")
    if settings.code == settings.output or settings.output == "codegen":
        problems.add(
            f"output names the package {settings.output}, which is not generated",
            _place(node, ["output"]),
            "rename it",
        )
    problems.stop_if_any()


def _place(node: Node, path: list[str]) -> Place:
    """Where a key is written."""
    *above, last = path
    holder = mapping(load.at(node, above))
    key = holder.key(last)
    return key.place if key is not None else holder.place


def check_packages(root: Path) -> None:
    """Raise SpecError if the hand-written code is not where spec/project.yaml says, or imports the
    stubs from another package than the output: everything else would only follow from that."""
    settings = read(root)
    if not (root / settings.code).is_dir():
        raise SpecError(
            f"code names the package {settings.code}, which does not exist",
            _place(load.yaml_file(root, FILE), ["code"]),
            "name the folder with the hand-written code",
        )
    if (root / settings.output).exists():
        return
    imported = re.compile(rf"^from (\w+)\.{settings.api.folder} import ", re.M)
    for path in sorted((root / settings.code).rglob("*.py")):
        file = path.relative_to(root).as_posix()
        found = imported.search(load.text_file(root, file))
        if found is not None and found[1] not in (settings.output, settings.code):
            raise SpecError(
                f"output names the package {settings.output}, but {file} imports the stubs from"
                f" {found[1]}",
                _place(load.yaml_file(root, FILE), ["output"]),
                f"write {found[1]}, or change the imports",
            )


def read(root: Path) -> Settings:
    """The settings of the project in ``root``; raises SpecError if the file cannot be read or
    violates its schema."""
    return _settings(load.text_file(root, FILE))


@functools.lru_cache(maxsize=8)
def _settings(given: str) -> Settings:
    node = load.checked_text(given, FILE, load.language_schema("project"))
    api, document = child(node, "api"), child(node, "document")
    record, clients = optional(node, "record"), optional(node, "clients")
    settings = Settings(
        api=ServedApi(_word(api, "name"), _word(api, "package"), _word(api, "protos")),
        document=WrittenDocument(
            _word(document, "name"), _word(document, "schema"), _word(document, "root")
        ),
        record=(
            WrittenRecord(_word(record, "name"), _word(record, "proto"), _word(record, "message"))
            if record is not None
            else None
        ),
        clients=_clients(clients) if clients is not None else None,
        payloads={name: _payload(body) for name, body in _pairs(node, "payloads")},
        defaults={name: _default(body) for name, body in _pairs(node, "defaults")},
        objects={name: _word(body, "states") for name, body in _pairs(node, "objects")},
        events=text(events) if (events := optional(node, "events")) is not None else None,
        singular={name: text(word) for name, word in _pairs(node, "singular")},
        code=_word(node, "code"),
        output=_word(node, "output"),
    )
    _check(node, settings)
    return settings


def _clients(node: Node) -> Clients:
    files = {
        name: Selection(
            _word(body, "package"),
            text(path) if (path := optional(body, "path")) is not None else ".proto",
        )
        for name, body in items(child(node, "files"))
    }
    return Clients(_word(node, "name"), _word(node, "protos"), files)


def _payload(node: Node) -> Payload:
    also = {name: text(word) for name, word in _pairs(node, "also")}
    return Payload(_word(node, "name"), _word(node, "schema"), _word(node, "root"), also)


def _default(node: Node) -> Default:
    form = next(word for word in ("document", "json", "text") if optional(node, word) is not None)
    schema = optional(node, "schema")
    return Default(
        form, _word(node, form), _word(node, "says"), text(schema) if schema is not None else None
    )


def _pairs(node: Node, key: str) -> Iterator[tuple[str, Node]]:
    found = optional(node, key)
    return iter(()) if found is None else items(found)


def _word(node: Node, key: str) -> str:
    return text(child(node, key))
