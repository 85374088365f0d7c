"""Named changes between two versions of the API or of the whole specification, as Markdown."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import (
    lifecycle,
    load,
    mapping_diff,
    mapping_file,
    metrics,
    project,
    proto_api,
    proto_diff,
    rpc,
    stubs,
)
from codegen.errors import Fault, Place, Problems, SpecError, shown
from codegen.model import MappingFile
from codegen.named import Named

Value = str | tuple[str, ...]
CLASSES: Mapping[str, str] = {
    proto_diff.WIRE_BREAKING: proto_diff.CLASSES[proto_diff.WIRE_BREAKING],
    mapping_diff.DANGEROUS: mapping_diff.CLASSES[mapping_diff.DANGEROUS],
    **proto_diff.CLASSES,
    **mapping_diff.CLASSES,
}
"""What a change means, the gravest first."""


@dataclass(frozen=True, slots=True)
class Specification:
    """What a reviewer compares."""

    proto: FileDescriptorProto
    mapping: Mapping[str, MappingFile]
    tables: Mapping[str, Value]
    """Every value of rpc.yaml, lifecycle.yaml and metrics.yaml, by its dotted path."""
    defaults: Mapping[str, Value]
    """Every value of the default documents, likewise."""


def of_specifications(old: Specification, new: Specification) -> list[Named]:
    """What changed from one state of spec/ to another."""
    return [
        *mapping_diff.changes(old.mapping, new.mapping),
        *_values("default", old.defaults, new.defaults, gained=mapping_diff.DANGEROUS),
        *_values("table", old.tables, new.tables, gained=mapping_diff.SAFE),
        *proto_diff.changes(old.proto, new.proto),
    ]


def at_revision(root: Path, revision: str) -> Specification:
    """The specification in a git revision; raises SpecError if it has none."""
    if not revision or revision.startswith("-"):  # git would take it as an option
        raise SpecError(
            "is no revision of git",
            Place(shown(revision)),
            "give a pinned version, or a git revision",
        )
    asked = ["git", "-C", str(root), "archive", revision, "spec"]
    made = subprocess.run(asked, capture_output=True, check=False)
    if made.returncode:
        raise SpecError(
            f"is not a revision with spec/: {made.stderr.decode().strip()}",
            Place(shown(revision)),
            (
                f"pinned versions: {', '.join(stubs.versions(root))}"
                if stubs.is_version(revision)
                else "give a git revision, such as HEAD"
            ),
        )
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
            archive.extractall(folder, filter="data")
        if not Path(folder, project.FILE).is_file():  # an older revision
            Path(folder, project.FILE).write_text(load.text_file(root, project.FILE))
        return in_folder(Path(folder))


def unreasoned(root: Path, revision: str) -> list[Fault]:
    """A fault for each change of the mapping since ``revision`` that can break what runs and has no
    reason written in spec/."""
    before, after = at_revision(root, revision), in_folder(root)
    return mapping_diff.unreasoned(before.mapping, after.mapping, revision)


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
    defaults = {
        path: value
        for name, default in project.read(root).defaults.items()
        if (root / default.file).is_file()
        for path, value in _default(root, name, default)
    }
    return Specification(proto, files, tables, defaults)


def _default(root: Path, name: str, default: project.Default) -> Iterator[tuple[str, Value]]:
    text = load.text_file(root, default.file)
    if default.form == "text":
        yield name, text
    else:
        yield from _flat(json.loads(text), name)


def _flat(value: load.Plain, path: str) -> Iterator[tuple[str, Value]]:
    """Every scalar below ``value``, and every list of scalars, with its dotted path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{number}")
    elif not path.endswith(".why"):
        yield path, tuple(map(str, value)) if isinstance(value, list) else str(value)


def _values(
    what: str, old: Mapping[str, Value], new: Mapping[str, Value], *, gained: str
) -> Iterator[Named]:
    for path, value in new.items():
        if path not in old:
            yield Named(f"{what}-gained", path, _text(value), gained)
        elif old[path] != value:
            yield Named(
                f"{what}-changed", path, _difference(old[path], value), mapping_diff.DANGEROUS
            )
    for path, value in old.items():
        if path not in new:
            yield Named(f"{what}-lost", path, _text(value), mapping_diff.DANGEROUS)


def _difference(old: Value, new: Value) -> str:
    """Old → new; of lists with other members, only those."""
    if isinstance(old, tuple) and isinstance(new, tuple) and set(old) != set(new):
        members = [f"+{one}" for one in new if one not in old]
        return ", ".join([*members, *(f"-{one}" for one in old if one not in new)])
    return f"{_text(old)} → {_text(new)}"


def _text(value: Value) -> str:
    text = ", ".join(value) if isinstance(value, tuple) else value
    return text if "\n" not in text else f"a text of {len(text.splitlines())} lines"


def markdown(old: str, new: str, changes: Iterable[Named]) -> str:
    """The changes as a page, by what they mean, the gravest first; in alphabetical order."""
    every = list(changes)
    lines: list[str] = []
    for effect, meaning in CLASSES.items():
        of_class = sorted(change.markdown() for change in every if change.effect == effect)
        if of_class:
            title = f"### {effect[:1].upper()}{effect[1:]} ({len(of_class)}): {meaning}"
            lines += [*([""] if lines else []), title, "", *of_class]
    return "\n".join([f"## {old} → {new}", "", *(lines or ["Nothing changed."])])


def as_json(old: str, new: str, changes: Iterable[Named]) -> str:
    """The changes as a JSON object, in the order in which they were found; ``comment`` only of a
    change that has one."""
    named = [
        {key: said for key, said in asdict(change).items() if said or key != "comment"}
        for change in changes
    ]
    return json.dumps({"old": old, "new": new, "changes": named}, indent=2, ensure_ascii=False)
