"""Named changes between two versions of the CRI or of the whole specification, as Markdown."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from codegen import cri_api, lifecycle, load, mapping_file, metrics, rpc, stubs
from codegen.errors import Place, Problems, SpecError
from codegen.model import Api, Entry, Field, MappingFile, Method, Rule

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class Named:
    """One change: its kind as a word, its subject, and the old and new value."""

    kind: str
    subject: str
    detail: str = ""

    def markdown(self) -> str:
        return f"- **{self.kind}** `{self.subject}`" + (f": {self.detail}" if self.detail else "")


def of_apis(old: Api, new: Api) -> list[Named]:
    """What changed from one CRI version to another."""
    found = list(_keys("message", old.messages, new.messages))
    for name in _both(old.messages, new.messages):
        before, after = old.messages[name].fields, new.messages[name].fields
        found += _keys("field", before, after, f"{name}.", lambda f: f"{f.kind} = {f.number}")
        for field in _both(before, after):
            found += _field(f"{name}.{field}", before[field], after[field])
    for name in _both(old.enums, new.enums):
        values = old.enums[name].values, new.enums[name].values
        found += _keys("enum-value", *values, f"{name}.", lambda number: f"= {number}")
    for name in _both(old.services, new.services):
        methods = old.services[name].methods, new.services[name].methods
        found += _keys("rpc", *methods, f"{name}.", _signature)
        for method in _both(*methods):
            found += _changed(
                "rpc-changed",
                f"{name}.{method}",
                _signature(methods[0][method]),
                _signature(methods[1][method]),
            )
    return found


def of_mappings(old: Mapping[str, MappingFile], new: Mapping[str, MappingFile]) -> list[Named]:
    """What changed from one mapping to another."""
    found = list(_keys("message", old, new))
    for name in _both(old, new):
        found += _changed("flow-changed", name, old[name].flow, new[name].flow)
        found += _changed("item-changed", name, _item(old[name]), _item(new[name]))
        for before, after in (
            (old[name].entries, new[name].entries),
            (old[name].targets, new[name].targets),
        ):
            found += _keys("entry", before, after, f"{name}.", lambda entry: entry.in_words)
            for entry in _both(before, after):
                found += _entry(f"{name}.{entry}", before[entry], after[entry])
    return found


@dataclass(frozen=True, slots=True)
class Specification:
    """What a reviewer compares."""

    api: Api
    mapping: Mapping[str, MappingFile]
    tables: Mapping[str, str]
    """Every value of rpc.yaml, lifecycle.yaml and metrics.yaml, by its dotted path."""


def of_specifications(old: Specification, new: Specification) -> list[Named]:
    """What changed from one state of spec/ to another."""
    return [
        *of_apis(old.api, new.api),
        *of_mappings(old.mapping, new.mapping),
        *_keys("table", old.tables, new.tables, detail=str),
        *(
            change
            for path in _both(old.tables, new.tables)
            for change in _changed("table-changed", path, old.tables[path], new.tables[path])
        ),
    ]


def at_revision(root: Path, revision: str) -> Specification:
    """The specification in a git revision; raises SpecError if it has none."""
    asked = ["git", "-C", str(root), "archive", revision, "spec"]
    made = subprocess.run(asked, capture_output=True, check=False)
    if made.returncode:
        raise SpecError(
            f"is not a revision with spec/: {made.stderr.decode().strip()}",
            Place(revision),
            "give two pinned CRI versions, or git revisions",
        )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
            archive.extractall(folder, filter="data")
        return in_folder(Path(folder))


def in_folder(root: Path) -> Specification:
    """The specification in a folder; raises SpecError if the mapping violates its schema."""
    problems = Problems()
    files, _ = mapping_file.read_all(root, problems)
    problems.stop_if_any()
    version = stubs.current_version(root)
    api = cri_api.api(cri_api.descriptor(version, cri_api.pinned(root)[version]), version)
    tables = {
        path: value
        for name in (rpc.FILE, lifecycle.FILE, metrics.FILE)
        if (root / name).is_file()  # an older revision has no metrics
        for path, value in _flat(load.yaml_file(root, name).plain(), Path(name).stem)
    }
    return Specification(api, files, tables)


def _flat(value: load.Plain, path: str) -> Iterator[tuple[str, str]]:
    """Every scalar below ``value``, and every list of scalars, with its dotted path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{number}")
    elif not path.endswith(".why"):
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(old: str, new: str, changes: Iterable[Named]) -> str:
    """The changes as a page, grouped by kind in alphabetical order."""
    lines = sorted(change.markdown() for change in changes)
    return "\n".join([f"## {old} → {new}", "", *(lines or ["Nothing changed."])])


def rule_text(rule: Rule) -> str:
    """A rule in one line."""
    return f"{rule.name} {', '.join(map(str, rule.values))}".strip()


def _both(old: Mapping[str, _Part], new: Mapping[str, _Part]) -> list[str]:
    return [name for name in new if name in old]


def _keys(
    what: str,
    old: Mapping[str, _Part],
    new: Mapping[str, _Part],
    prefix: str = "",
    detail: Callable[[_Part], str] = lambda _: "",
) -> Iterator[Named]:
    for name in new:
        if name not in old:
            yield Named(f"{what}-gained", prefix + name, detail(new[name]))
    for name in old:
        if name not in new:
            yield Named(f"{what}-lost", prefix + name, detail(old[name]))


def _changed(kind: str, subject: str, before: object, after: object) -> Iterator[Named]:
    if before != after:
        yield Named(kind, subject, f"{before or 'nothing'} → {after or 'nothing'}")


def _field(subject: str, old: Field, new: Field) -> Iterator[Named]:
    yield from _changed("field-renumbered", subject, old.number, new.number)
    yield from _changed("field-retyped", subject, str(old.kind), str(new.kind))
    if new.deprecated and not old.deprecated:
        yield Named("field-deprecated", subject)
    if new.redacted != old.redacted:
        yield Named("field-redaction-changed", subject, f"debug_redact = {new.redacted}")


def _signature(method: Method) -> str:
    return f"({method.request}) returns ({'stream ' * method.streams}{method.response})"


def _entry(subject: str, old: Entry, new: Entry) -> Iterator[Named]:
    if old.fate != new.fate:
        yield Named("fate-changed", subject, f"{old.in_words} → {new.in_words}")
        return
    moved = {
        "copy": "target-moved",
        "compute": "target-moved",
        "match": "comparison-changed",
        "handled_by": "handler-moved",
        "unmapped": "reason-changed",
    }[new.fate]
    yield from _changed(moved, subject, old.value, new.value)
    yield from _changed("condition-changed", subject, old.when, new.when)
    yield from _changed("transform-changed", subject, old.by, new.by)
    yield from _changed("inputs-changed", subject, _inputs(old), _inputs(new))
    yield from _changed("merge-changed", subject, old.merge, new.merge)
    yield from _changed("partner-changed", subject, old.partner, new.partner)
    yield from _changed("refusal-changed", subject, old.if_set, new.if_set)
    yield from _changed("issue-changed", subject, old.issue, new.issue)
    before, after = ({rule_text(rule): rule for rule in entry.rules} for entry in (old, new))
    yield from _keys("rule", before, after, f"{subject}: ")
    if old.why != new.why:
        yield Named("reason-reworded", subject)


def _item(file: MappingFile) -> str | None:
    return file.item.in_words if file.item is not None else None


def _inputs(entry: Entry) -> str:
    return ", ".join(
        i.path if i.argument == i.path.rpartition(".")[2] else f"{i.path} as {i.argument}"
        for i in entry.inputs
    )
