"""The pipeline from ``spec/`` to the texts of ``generated/``: load, resolve, render.

What only some commands need is imported where it is used: explain takes half a second in all.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import (
    document_schema,
    lifecycle,
    load,
    mapping_file,
    metrics,
    payload_schema,
    plan,
    plan_schema,
    project,
    proto_api,
    protoc,
    provenance,
    render,
    resolve,
    rpc,
    rules,
    schema_keywords,
    served,
    stubs,
)
from codegen.errors import Fault, Place, Problems, SpecError, nearest, one_of
from codegen.former import Former
from codegen.lifecycle import Lifecycle
from codegen.load import Schema
from codegen.message_reads import Use
from codegen.model import Api, Document, Kind, Mapped, MappingFile, Message, Plan
from codegen.paths import UNREAD, Paths
from codegen.project import Settings
from codegen.python_source import Sources
from codegen.render import Job
from codegen.rpc import Rpcs

if TYPE_CHECKING:
    from codegen.older import OlderService

_SPEC_OF = {
    "%document/defaults.py.j2": project.FILE,
    "provenance.py.j2": mapping_file.FOLDER,
    "handlers/ignored.py.j2": mapping_file.FOLDER,
    "items/__init__.py.j2": mapping_file.FOLDER,
    "plans.py.j2": plan_schema.FOLDER,
    "lifecycle.py.j2": lifecycle.FILE,
}
"""By template: the file or folder of spec/ that decides most of its output, if not rpc.yaml."""
MANIFEST = "MANIFEST.json"
"""The file of the output that says what it was made from."""
_TOOLS = ("grpcio-tools", "jinja2", "protobuf", "ruff")


@dataclass(frozen=True, slots=True)
class Translation:
    """The resolved mapping: the source of builders, readers and validators."""

    root: Path
    settings: Settings
    api: Api
    document: Document
    files: Mapping[str, MappingFile]
    mapped: Mapping[str, Mapped]
    plans: Mapping[str, Plan]
    payloads: tuple[Plan, ...]
    """What other programs receive, each made of one message."""
    paths: Paths


@dataclass(frozen=True, slots=True)
class Project:
    """The whole specification."""

    root: Path
    settings: Settings
    translation: Translation
    lifecycle: Lifecycle
    rpcs: Rpcs
    metrics: metrics.Metrics | None
    older: tuple[OlderService, ...]
    """Services of older packages that are served as well."""
    defaults: Mapping[str, Any]
    """Decoded JSON, or text, by name."""


def load_project(root: Path) -> Project:
    """The project in ``root``; raises SpecError with all faults.

    Checks skip references to what could not be read, so that each mistake is reported once.
    """
    from codegen import api_names, older, strays

    settings = project.read(root)
    project.check_packages(root)
    proto_api.check_package(root)
    problems = Problems()
    api = problems.attempt(lambda: read_api(root, problems))
    strays.check(root, settings, problems)
    enums = {n: e.values for n, e in api.enums.items()} if api is not None else None
    machines = problems.attempt(
        lambda: lifecycle.read(root, enums, problems, api.former if api else None)
    )
    rpcs = problems.attempt(lambda: rpc.read(root, api, machines, problems))
    found = translation(root, api, rpcs, problems)
    measured = None
    if found is not None and (root / metrics.FILE).is_file():
        measured = problems.attempt(lambda: metrics.read(root, found.paths, problems))
    former: tuple[OlderService, ...] | None = ()
    if (root / older.FILE).is_file():
        former = problems.attempt(lambda: older.read(root, current_proto(root), problems))
    for name in ("metrics", "older") if found is None else ():  # what else is wrong in them
        problems.attempt(partial(_follows_schema, root, name))
    check_served(
        found.paths.sources if found is not None else _sources_alone(root, settings),
        rpcs,
        machines,
        problems,
    )
    defaults = read_defaults(root, settings, found.document if found else None, problems)
    stubs.check_clients(root, problems)
    if api is not None:
        if found is not None:
            payload_schema.check(root, api, problems)
        api_names.check(root, api, problems)
        check_decided(root, found.files if found is not None else {}, problems, api.former)
    problems.stop_if_any()
    assert found and machines and rpcs and former is not None
    return Project(root, settings, found, machines, rpcs, measured, former, defaults)


def _follows_schema(root: Path, name: str) -> None:
    file = f"spec/{name}.yaml"
    if (root / file).is_file():
        load.checked_file(root, file, load.language_schema(name))


def _sources_alone(root: Path, settings: Settings) -> Sources:
    """The hand-written code, for checks that need neither the API nor the document."""
    return Sources(root, settings, Api("", "", "", {}, {}, {}), Document("", "", {}))


def read_api(root: Path, problems: Problems | None = None) -> Api:
    """The current version of the API; raises SpecError if it cannot be read.

    With ``problems``, an older version that cannot be read is recorded there, and left out of what
    decides since when something exists.
    """
    found = Problems()
    version = stubs.current_version(root)
    versions = proto_api.pinned(root, found)
    if version not in versions:
        found.stop_if_any()
    api = proto_api.load(project.read(root).api, versions, version, found)
    if problems is None:
        found.stop_if_any()
    else:
        problems.extend(found)
    return api


def current_proto(root: Path) -> FileDescriptorProto:
    """The descriptor of the current version of the API."""
    version, served = stubs.current_version(root), project.read(root).api
    return proto_api.descriptor(served, version, load.text_file(root, served.proto(version)))


def check_served(
    sources: Sources, rpcs: Rpcs | None, machines: Lifecycle | None, problems: Problems
) -> None:
    """Compare rpc.yaml and lifecycle.yaml with hand-written code."""
    if rpcs is not None:
        problems.attempt(partial(served.check_operations, rpcs, sources, problems))
        problems.attempt(partial(served.check_services, rpcs, sources, problems))
    if machines is not None:
        problems.attempt(partial(served.check_events, machines, sources, problems))


def check_decided(
    root: Path,
    files: Mapping[str, MappingFile],
    problems: Problems,
    former: Former | None = None,
) -> None:
    """Name what differs from the API as it was decided about; only for what could be read."""
    from codegen import api_names, decided

    def names_read(enum: str) -> list[str]:
        return api_names.names_read(root, enum)

    try:
        rpcs = load.yaml_file(root, rpc.FILE)
    except SpecError:  # reported with the rest of rpc.yaml
        rpcs = None
    proto = problems.attempt(lambda: current_proto(root))
    if proto is not None:
        problems.attempt(
            lambda: decided.check(root, proto, files, rpcs, problems, former, names_read)
        )


def translation(
    root: Path, api: Api | None, rpcs: Rpcs | None, problems: Problems, *, judged: bool = True
) -> Translation | None:
    """The mapping in ``root``, resolved, and judged as a whole unless that is not ``judged``.

    None if the API, a schema, the record or a file of hand-written code could not be read.
    Without ``rpcs``, checks that involve RPCs are skipped.
    """
    settings = project.read(root)
    files, broken = mapping_file.read_all(root, problems)
    document = problems.attempt(lambda: document_schema.read(root, problems))
    objects = problems.attempt(lambda: payload_schema.read(root, problems))
    records = problems.attempt(lambda: _records(root, settings))
    if api is None or document is None or objects is None or records is None:
        return None
    sources = Sources(root, settings, api, document)
    faults_of_plans = Problems()
    known_plans = plan_schema.read_all(root, api, sources.records, faults_of_plans)
    problems.extend(faults_of_plans)
    sources.plans = known_plans
    known_payloads = tuple(payload_schema.payloads(root, api, objects))
    paths = Paths(api, document, sources, records, known_plans, objects, known_payloads)
    uses = problems.attempt(lambda: sources.uses) if judged else ()
    if uses is None:
        return None
    faults = Problems()
    mapped = _resolved(files, paths, rpcs, faults)
    found = Translation(
        root, settings, api, document, files, mapped, known_plans, known_payloads, paths
    )
    if judged:
        _judge(found, broken, uses, rpcs, faults)
    problems.extend(_own(faults, bool(faults_of_plans), lost_plans(root, settings)))
    return found


def _own(faults: Problems, plans_have_faults: bool, lost: Sequence[str]) -> Iterator[Fault]:
    """The faults of entries that do not only follow from a plan or a payload that could not be
    read, or from a file with plans that is ``lost``."""
    about_plans = {"unknown-plan", "plan-without-reader"}
    following = {UNREAD} | ({"unknown-plan"} if plans_have_faults else set())
    if lost and any(fault.rule in about_plans for fault in faults):
        following |= about_plans
        for file in lost:
            yield Fault(
                Place(file),
                "is missing, and entries write into its plans",
                "plan-file-missing",
                "restore it, or remove what they write",
            )
    yield from (fault for fault in faults if fault.rule not in following)


def lost_plans(root: Path, settings: Settings) -> list[str]:
    """The files with plans that the output was made from and that no longer exist."""
    try:
        inputs = load.json_file(root, f"{settings.output}/{MANIFEST}")["inputs"]
        made_from = [str(name) for name in inputs if str(name).startswith(plan_schema.FOLDER)]
    except (SpecError, KeyError, TypeError):  # nothing was generated yet, or it was damaged
        return []
    return [name for name in made_from if not (root / name).exists()]


def with_files(whole: Project, files: Mapping[str, MappingFile]) -> Project:
    """The project with these mapping files; raises SpecError with all their faults."""
    before, problems = whole.translation, Problems()
    mapped = _resolved(files, before.paths, whole.rpcs, problems)
    found = replace(before, files=files, mapped=mapped)
    _judge(found, frozenset(), before.paths.sources.uses, whole.rpcs, problems)
    problems.stop_if_any()
    return replace(whole, translation=found)


def _resolved(
    files: Mapping[str, MappingFile], paths: Paths, rpcs: Rpcs | None, problems: Problems
) -> dict[str, Mapped]:
    return {
        name: resolve.resolve(paths.api.messages[name], file, files, paths, rpcs, problems)
        for name, file in files.items()
        if name in paths.api.messages
    }


def _judge(
    found: Translation,
    broken: frozenset[str],
    uses: tuple[Use, ...],
    rpcs: Rpcs | None,
    problems: Problems,
) -> None:
    """What only shows when all entries are seen together."""
    everything = rules.Everything(
        found.api,
        found.files,
        found.mapped,
        broken,
        uses,
        found.plans,
        found.payloads,
        rpcs,
    )
    rules.check(everything, problems)


def at(whole: Project, version: str, option: str = "--api") -> Project:
    """The project as it would be if ``version``, which the user gave with ``option``, were the
    current one, not a newer one.

    Raises SpecError if there is no such older version, or if it cannot be generated.
    """
    from codegen import at_version

    found, settings, problems = whole.translation, whole.settings, Problems()
    current = found.api.version
    known = [v for v in stubs.versions(whole.root) if stubs.order(v) <= stubs.order(current)]
    if version not in known:
        raise SpecError(
            f"{version!r} is no pinned version of the {settings.api.name} up to {current}",
            Place(option),
            one_of(known),
        )
    if version == current:
        return whole
    api = proto_api.load(settings.api, proto_api.pinned(whole.root), version, problems)
    files = at_version.files(found.files, api)
    api = at_version.decided(api, found.api, files)
    restricted = at_version.Restricted(api, found.api, files, problems)
    mapped = {
        name: one
        for name, full in found.mapped.items()
        if name in files and (one := problems.attempt(partial(restricted.mapped, full)))
    }
    machines = problems.attempt(lambda: at_version.machines(whole.lifecycle, api))
    rpcs = problems.attempt(lambda: at_version.rpcs(whole.rpcs, api))
    problems.stop_if_any()
    assert machines and rpcs
    return replace(
        whole,
        translation=replace(
            found,
            api=api,
            files=files,
            mapped=mapped,
            plans=at_version.plans(found.plans, mapped),
            payloads=tuple(at_version.plans({p.name: p for p in found.payloads}, mapped).values()),
        ),
        lifecycle=machines,
        rpcs=rpcs,
        older=at_version.former(whole.older, api),
    )


def words(settings: Settings) -> dict[str, str]:
    """The names of folders in the paths of templates."""
    found = {"api": settings.api.folder, "document": settings.document.folder}
    return found | ({"clients": settings.clients.folder} if settings.clients is not None else {})


def outputs(whole: Project) -> dict[str, str]:
    """{path under generated/: text} of all files, including the manifest."""
    root, settings, api = whole.root, whole.settings, whole.translation.api
    proto = load.text_file(root, settings.api.proto(api.version))
    files = project.schemas() | stubs.render(settings, proto, stubs.client_protos(root))
    files |= render.finished(unformatted(whole))
    files[MANIFEST] = manifest(root, api, files)
    return files


def unformatted(whole: Project) -> dict[str, str]:
    """{path under generated/: text} of the files that are made by templates, before they are
    formatted."""
    return render.unformatted(
        jobs(whole.translation)
        | {"handlers/%service.py.j2": _service_jobs(whole)}
        | optional_jobs(whole),
        shared(whole),
        _SPEC_OF | {"%document/types.py.j2": whole.settings.document.schema},
        words(whole.settings),
    )


def jobs(found: Translation) -> dict[str, list[Job]]:
    """The input of the templates of builders, readers and validators."""
    from codegen.emit import builders, filters, items, readers, validators

    def job(name: str, mapped: Mapped, text: object) -> Job:
        return Job({"message": mapped.module}, {name: text}, mapped.file.file)

    mapped, settings = found.mapped, found.settings
    return {
        "%document/%message.py.j2": [
            job("builder", b.mapped, builders.text(b)) for b in plan.builders(mapped, settings)
        ],
        "statuses/%message.py.j2": [
            job("reader", r.mapped, readers.text(r)) for r in plan.readers(mapped, settings)
        ],
        "items/%message.py.j2": [
            job("item", i.mapped, items.text(i)) for i in plan.items(mapped, settings)
        ],
        "filters/%message.py.j2": [
            job("filter", f.mapped, filters.text(f)) for f in plan.filters(mapped, settings)
        ],
        "validators/%message.py.j2": [
            job("validator", v.mapped, validators.text(v))
            for v in plan.validators(mapped, settings)
        ],
        "%payload.py.j2": payload_jobs(found),
    }


def optional_jobs(whole: Project) -> dict[str, list[Job]]:
    """The input of the templates that not every specification needs."""
    from codegen import older
    from codegen.emit import metrics as metrics_text

    found = whole.translation
    measured = []
    if whole.metrics is not None:
        variables = {"metrics": metrics_text.text(whole.metrics, whole.settings)}
        measured.append(Job({}, variables, metrics.FILE))
    planned = [Job({}, {}, plan_schema.FOLDER)] if found.plans else []
    return {
        "metrics.py.j2": measured,
        "handlers/older.py.j2": [Job({}, {}, older.FILE)] if whole.older else [],
        "plans.py.j2": planned,
    }


def payload_jobs(found: Translation) -> list[Job]:
    """One for each payload."""
    from codegen.emit import payloads

    jobs = []
    for word, payload in found.settings.payloads.items():
        planned = [
            plan.plan_of(found.mapped, one, found.settings)
            for one in found.payloads
            if one.root.partition(".")[0] == word
        ]
        if planned:
            variables = {
                "title": load.json_file(found.root, payload.schema).get("title", payload.name),
                "schema": payload.schema,
                "imports": payloads.all_imports(planned),
                "payloads": [payloads.text(one) for one in planned],
            }
            jobs.append(Job({"payload": word}, variables, payload.schema))
    return jobs


def _service_jobs(whole: Project) -> list[Job]:
    from codegen.emit import services

    found = whole.translation
    planned = plan.services(whole.rpcs, found.mapped, found.plans, whole.settings)
    return [
        Job({"service": s.rpcs.service.module}, {"service": services.text(s)}, rpc.FILE)
        for s in planned
    ]


def secrets(api: Api, files: Mapping[str, MappingFile]) -> dict[str, list[str]]:
    """By message: the fields that must never be logged."""
    found = {name: plan.secrets(m, files.get(name)) for name, m in api.messages.items()}
    return {message: fields for message, fields in found.items() if fields}


def ignored(files: Mapping[str, MappingFile]) -> dict[str, list[str]]:
    """By received message: the fields that have no effect if they are set."""
    found = {
        name: [e.name for e in file.entries.values() if e.is_ignored]
        for name, file in sorted(files.items())
        if file.takes
    }
    return {message: fields for message, fields in found.items() if fields}


def shared(whole: Project) -> dict[str, Any]:
    """Variables available to every template."""
    from codegen.emit import plans, types
    from codegen.emit.python import imports

    found, settings = whole.translation, whole.settings
    planned = plan.plans(found.mapped, found.plans, settings)
    return {
        "plans": [plans.text(p) for p in planned],
        "plan_imports": plans.all_imports(planned),
        "settings": settings,
        "api": found.api,
        "classes": types.text(found.document),
        "lifecycle": whole.lifecycle,
        "rpcs": whole.rpcs,
        "well_known_imports": imports(
            plan.well_known_imports([rpc for noun in whole.rpcs.nouns for rpc in noun.rpcs])
        ),
        "older": whole.older,
        "plans_of_requests": plan.plans_of_requests(whole.rpcs, found.plans),
        "secrets": secrets(found.api, found.files),
        "ignored": ignored(found.files),
        "messages": [found.mapped[name] for name in found.api.messages if name in found.mapped],
        "counts": counts(found.files.values()),
        "origins": provenance.origins(found.mapped),
        "defaults": _defaults(whole.defaults, settings, found.document),
    }


def read_defaults(
    root: Path, settings: Settings, document: Document | None, problems: Problems
) -> dict[str, Any]:
    """The JSON or text of each default; what has a schema is read as YAML too, so that faults have
    a line."""
    found: dict[str, Any] = {}
    for name, default in settings.defaults.items():
        read = load.text_file if default.form == "text" else load.json_file
        data = problems.attempt(partial(read, root, default.file))
        if data is not None:
            found[name] = data
    written, use = settings.document, schema_keywords.DOCUMENT
    whole = problems.attempt(
        lambda: schema_keywords.read(root, written.schema, use, problems, written.root)
    )
    for name, default in settings.defaults.items():
        schema = whole if default.form == "document" else None
        if default.schema is not None:
            schema = _schema_of_default(root, default.schema, problems)
        if schema is None or name not in found:
            continue
        node = problems.attempt(partial(load.checked_file, root, default.file, schema))
        if node is not None and default.form == "document" and document is not None:
            document_schema.check_keys(node, document, problems)
    return found


def _schema_of_default(root: Path, file: str, problems: Problems) -> Schema | None:
    """None if it has a fault, from which faults of the default would only follow."""
    found = Problems()
    schema = found.attempt(lambda: schema_keywords.read(root, file, schema_keywords.DEFAULT, found))
    problems.extend(found)
    return None if found else schema


def counts(files: Iterable[MappingFile]) -> Counts:
    """The number of fields, by fate, and totals."""
    entries = [entry for file in files for entry in file.entries.values()]
    fates = Counter(entry.fate_in_words for entry in entries)
    by_rpc = sum(entry.by_rpc for entry in entries)
    if by_rpc:
        fates["handled by"] -= by_rpc
        fates["handled by rpc.yaml"] = by_rpc
    ours = len(entries) - fates["unmapped: other-platform"]
    decided = sum(entry.fate in ("copy", "compute", "match") or entry.by_rpc for entry in entries)
    by_hand = fates["handled by"]
    return Counts(len(entries), dict(sorted(fates.items())), ours, decided, by_hand)


@dataclass(frozen=True, slots=True)
class Counts:
    """The fates of all fields in numbers."""

    total: int
    fates: Mapping[str, int]
    ours: int
    """Fields of this platform."""
    decided: int
    """Of these, those that generated code decides: copied, computed, compared, or looked up by
    rpc.yaml."""
    handled: int
    """Of all, those that a hand-written function decides."""

    def lines(self) -> Iterator[str]:
        """The totals, in words."""
        yield f"{self.ours} of {self.total} fields are not of other platforms. Of these:"
        yield f"{self.decided} ({self._share(self.decided)}) are decided by generated code,"
        yield f"{self.handled} ({self._share(self.handled)}) by a hand-written function."

    def _share(self, part: int) -> str:
        return f"{100 * part / self.ours:.0f} %" if self.ours else "0 %"


@dataclass(frozen=True, slots=True)
class DefaultText:
    """A default as Python."""

    name: str
    form: str
    says: str
    python: str


def _defaults(data: Mapping[str, Any], settings: Settings, document: Document) -> list[DefaultText]:
    from codegen.emit import python

    whole = Kind("object", document.root)
    written: Mapping[str, Callable[[Any], str]] = {
        "document": lambda value: python.constructor(whole, value, document),
        "json": python.literal,
        "text": python.long_text,
    }
    return [
        DefaultText(name, one.form, one.says, written[one.form](data[name]))
        for name, one in settings.defaults.items()
    ]


def _records(root: Path, settings: Settings) -> dict[str, Message]:
    """The message that targets may begin with, if there is one, by name."""
    record = settings.record
    if record is None:
        return {}
    name = record.proto.removeprefix("spec/")
    found = protoc.descriptors({name: load.text_file(root, record.proto)}, {name: record.proto})
    messages = proto_api.api(found.file[-1], "").messages
    if record.message not in messages:
        raise SpecError(
            f"has no message {record.message}",
            Place(record.proto),
            nearest(record.message, messages),
        )
    return {record.message: messages[record.message]}


def manifest(root: Path, api: Api, files: Mapping[str, str]) -> str:
    """MANIFEST.json: the generated files, their sources and the tool versions."""
    files_read = [*(root / "spec").rglob("*"), *render.TEMPLATES.rglob("*.j2")]
    inputs = {
        _below(path, root): path
        for path in files_read
        if path.is_file() and path.suffix != ".md" and not path.name.startswith(".")
    }
    data = {
        "api": api.version,
        "tools": {tool: version(tool) for tool in _TOOLS},
        "inputs": {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in sorted(inputs.items())
        },
        "outputs": {
            name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())
        },
    }
    return json.dumps(data, indent=2) + "\n"


def _below(path: Path, root: Path) -> str:
    resolved = path.resolve()
    if resolved.is_relative_to(render.TEMPLATES):
        return f"codegen/templates/{resolved.relative_to(render.TEMPLATES).as_posix()}"
    return resolved.relative_to(root.resolve()).as_posix()
