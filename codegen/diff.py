"""Named changes between two versions of the API or of the whole specification, as Markdown."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import (
    lifecycle,
    load,
    mapping_file,
    metrics,
    project,
    proto_api,
    proto_diff,
    rpc,
    stubs,
)
from codegen.errors import Place, Problems, SpecError
from codegen.model import Entry, MappingFile, Rule

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class Named:
    """One change: its kind as a word, its subject, and the old and new value."""

    kind: str
    subject: str
    detail: str = ""
    effect: str = ""
    """The class of a change of the API, one of ``proto_diff.CLASSES``."""

    def markdown(self) -> str:
        return f"- **{self.kind}** `{self.subject}`" + (f": {self.detail}" if self.detail else "")


def of_protos(old: FileDescriptorProto, new: FileDescriptorProto) -> list[Named]:
    """What changed from one version to another."""
    return [Named(c.kind, c.subject, c.detail, c.effect) for c in proto_diff.changes(old, new)]


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

    proto: FileDescriptorProto
    mapping: Mapping[str, MappingFile]
    tables: Mapping[str, str]
    """Every value of rpc.yaml, lifecycle.yaml and metrics.yaml, by its dotted path."""


def of_specifications(old: Specification, new: Specification) -> list[Named]:
    """What changed from one state of spec/ to another."""
    return [
        *of_protos(old.proto, new.proto),
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
            "give two pinned versions, or git revisions",
        )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
            archive.extractall(folder, filter="data")
        if not Path(folder, project.FILE).is_file():  # an older revision
            Path(folder, project.FILE).write_text(load.text_file(root, project.FILE))
        return in_folder(Path(folder))


def in_folder(root: Path) -> Specification:
    """The specification in a folder; raises SpecError if the mapping violates its schema."""
    problems = Problems()
    files, _ = mapping_file.read_all(root, problems)
    problems.stop_if_any()
    version = stubs.current_version(root)
    served = project.read(root).api
    proto = proto_api.descriptor(served, version, proto_api.pinned(root)[version])
    tables = {
        path: value
        for name in (rpc.FILE, lifecycle.FILE, metrics.FILE)
        if (root / name).is_file()  # an older revision has no metrics
        for path, value in _flat(load.yaml_file(root, name).plain(), Path(name).stem)
    }
    return Specification(proto, files, tables)


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
    """The changes as a page: those of the mapping, then those of the API by class, each grouped by
    kind in alphabetical order."""
    every = list(changes)
    lines = sorted(change.markdown() for change in every if not change.effect)
    for effect, meaning in proto_diff.CLASSES.items():
        of_class = sorted(change.markdown() for change in every if change.effect == effect)
        if of_class:
            title = f"### {effect[:1].upper()}{effect[1:]} ({len(of_class)}): {meaning}"
            lines += [*([""] if lines else []), title, "", *of_class]
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
    return file.items_in_words or None


def _inputs(entry: Entry) -> str:
    return ", ".join(
        i.path if i.argument == i.path.rpartition(".")[2] else f"{i.path} as {i.argument}"
        for i in entry.inputs
    )
