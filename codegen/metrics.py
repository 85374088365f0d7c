"""spec/metrics.yaml as a model: metrics, and the source of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from codegen import load
from codegen.errors import Place, Problems, SpecError, nearest, one_of
from codegen.load import MappingNode, Node
from codegen.model import Source
from codegen.nodes import child, items, optional, text, values
from codegen.paths import Paths

FILE = "spec/metrics.yaml"
VERSIONS = ("v1", "v2")
PAGE_SIZE = "{pagesize}"

_KEYED = ("keyed", "pressure", "devices")
_PER_SECOND = {"nanoseconds": 10**9, "microseconds": 10**6}


@dataclass(frozen=True, slots=True)
class File:
    """A file with numbers, one of a group that is read together."""

    name: str
    controller: str
    """What the file belongs to; "" where that needs no name."""
    form: str

    @property
    def pages(self) -> tuple[str, str] | None:
        """The text before and after the huge page size in the name; None without one."""
        before, found, after = self.name.partition(PAGE_SIZE)
        return (before, after) if found else None

    @property
    def variable(self) -> str:
        """The variable with its content in generated code."""
        return self.name.replace(f".{PAGE_SIZE}", "").replace(".", "_")


@dataclass(frozen=True, slots=True)
class Taken:
    """A value in a file."""

    file: File
    key: str | None
    per_second: int | None
    """How many units of the value make one second; None if it is not a time."""
    less: Taken | None
    """A value that is subtracted."""
    operations: Mapping[str, str]
    """The key of each operation, if each has a sample."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels whose values come from the file."""
        if self.file.form == "devices":
            return ("device", "major", "minor", "operation") if self.operations else ("device",)
        return ("pagesize",) if self.file.pages else ()

    @property
    def files(self) -> tuple[File, ...]:
        return (self.file, *(self.less.files if self.less else ()))


@dataclass(frozen=True, slots=True)
class Value:
    """One source of samples of a metric."""

    taken: Mapping[str, Taken]
    """By version of the files."""
    copied: Source | None
    per_second: int | None
    """What the copied value belongs to."""
    given: Mapping[str, str]
    """Labels with a fixed value."""
    labels: Mapping[str, Source]
    """Labels whose value is copied."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """What is copied."""
        return (*([self.copied] if self.copied else []), *self.labels.values())


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    help: str
    type: str
    """``counter`` or ``gauge``."""
    of: str
    """What a sample belongs to, one of ``Metrics.of``."""
    labels: tuple[str, ...]
    """Its own label keys, after those of every metric."""
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """All metrics."""

    of: Mapping[str, tuple[str, ...] | None]
    """What samples belong to, with the context roots that exist for it, or None for those of what
    files are read for: all but the others."""
    always: frozenset[str]
    """The context roots that every sample has; any other is None if it was not measured."""
    labels: Mapping[str, Mapping[str, Source]]
    """The labels of every metric, in order: where their values are copied from, by ``of``."""
    files: Mapping[str, Mapping[str, File]]
    """By version of the files, and name."""
    metrics: tuple[Metric, ...]


def read(root: Path, paths: Paths, problems: Problems) -> Metrics:
    """The metrics in ``root``, without those that violate the schema. Faults go to ``problems``; a
    file that violates its schema elsewhere raises SpecError."""
    schema = load.language_schema("metrics")
    node, faulty = load.checked_parts(root, FILE, schema, [("metrics", "*")], problems)
    files = {
        version: {
            name: File(name, _word(body, "controller") or "", text(child(body, "form")))
            for name, body in items(child(child(node, "files"), version))
        }
        for version in VERSIONS
    }
    belongs = {
        name: tuple(map(text, values(roots))) if (roots := optional(body, "roots")) else None
        for name, body in items(child(node, "of"))
    }
    reader = _Reader(
        paths, problems, belongs, files, [name for name, _ in items(child(node, "labels"))]
    )
    labels = {
        name: {
            of: source
            for of, path in items(body)
            if (source := reader.source(path, "str", of)) is not None
        }
        for name, body in items(child(node, "labels"))
    }
    before = len(list(problems))
    metrics = tuple(reader.metric(name, body) for name, body in items(child(node, "metrics")))
    for _, body in items(child(node, "labels")):
        for of, path in items(body):
            reader.must_be_known(of, path)
    _check_names(child(node, "metrics"), _word(node, "prefix") or "", problems)
    if not faulty and len(list(problems)) == before:  # what has a fault may use any
        _check_used(child(node, "files"), metrics, problems)
    always = frozenset(map(text, values(child(node, "always"))))
    return Metrics(belongs, always, labels, files, metrics)


def _check_names(node: Node, prefix: str, problems: Problems) -> None:
    assert isinstance(node, MappingNode)
    for key, _ in node.items():
        if not key.value.startswith(prefix):
            problems.add(f"{key.value} must begin with {prefix}", key.place)


def _check_used(node: Node, metrics: tuple[Metric, ...], problems: Problems) -> None:
    used = {
        (version, file.name)
        for metric in metrics
        for value in metric.values
        for version, taken in value.taken.items()
        for file in taken.files
    }
    for version, files in items(node):
        assert isinstance(files, MappingNode)
        for key, _ in files.items():
            if (version, key.value) not in used:
                problems.add(
                    f"no metric uses the file {key.value} of {version}",
                    key.place,
                    "remove it, so that it is not read for nothing",
                )


def _word(node: Node, key: str) -> str | None:
    found = optional(node, key)
    return None if found is None else text(found)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns entries into metrics."""

    paths: Paths
    problems: Problems
    of: Mapping[str, tuple[str, ...] | None]
    files: Mapping[str, Mapping[str, File]]
    labels: Collection[str]
    """The labels of every metric."""

    def metric(self, name: str, node: Node) -> Metric:
        labels = optional(node, "labels")
        own = tuple(text(label) for label in values(labels))
        for label in values(labels):
            if text(label) in self.labels:
                self.problems.add(f"every metric has the label {text(label)} already", label.place)
        samples = optional(node, "samples")
        of = text(child(node, "of"))
        self.must_be_known(of, child(node, "of"))
        if samples is not None and any(
            optional(node, key) for key in ("v1", "v2", "copy", "unit", "given", "copied")
        ):
            self.problems.add(f"{name} has samples and a source of its own", samples.place)
        rows = [node] if samples is None else list(values(samples))
        found = tuple(self._value(name, row, of, own) for row in rows)
        given = Counter(tuple(sorted(value.given.items())) for value in found)
        for value, row in zip(found, rows, strict=True):
            if given[tuple(sorted(value.given.items()))] > 1:
                self.problems.add(
                    f"two samples of {name} have the same labels",
                    row.place,
                    "tell them apart by given",
                )
        return Metric(name, text(child(node, "help")), text(child(node, "type")), of, own, found)

    def _value(self, name: str, node: Node, of: str, own: tuple[str, ...]) -> Value:
        taken: dict[str, Taken] = {}
        for version in VERSIONS:
            body = optional(node, version)
            if body is not None:
                made = self.problems.attempt(partial(self._taken, body, version))
                if made is not None:
                    taken[version] = made
        copied = optional(node, "copy")
        if (copied is None) != any(optional(node, version) for version in VERSIONS):
            self.problems.add(
                f"{name} needs either copy, or a source in v1, v2 or both", node.place
            )
        if self.of.get(of) is not None and copied is None:
            self.problems.add(f"{name} is of {of}, for which no file is read", node.place)
        value = Value(
            taken=taken,
            copied=self.source(copied, "int", of) if copied is not None else None,
            per_second=_PER_SECOND.get(_word(node, "unit") or ""),
            given={k: text(v) for k, v in _pairs(node, "given")},
            labels={
                label: source
                for label, path in _pairs(node, "copied")
                if (source := self.source(path, "str", of)) is not None
            },
        )
        if copied is None and optional(node, "unit") is not None:
            self.problems.add(
                f"the unit of {name} is that of nothing",
                child(node, "unit").place,
                "write it next to the file",
            )
        known = {*value.given, *(k for k, _ in _pairs(node, "copied"))}
        for version in VERSIONS:
            body = optional(node, version)
            if body is None:
                self._check_labels(name, node.place, own, known, "") if copied else None
            elif version in taken:
                both = known | set(taken[version].labels)
                self._check_labels(name, body.place, own, both, f" in {version}")
        return value

    def _check_labels(
        self, name: str, place: Place, own: tuple[str, ...], known: set[str], where: str
    ) -> None:
        for label in own:
            if label not in known:
                self.problems.add(
                    f"nothing gives the label {label} of {name} a value{where}",
                    place,
                    "name it in given or copied, or remove it from labels",
                )
        for label in sorted(known - set(own)):
            self.problems.add(
                f"{label} is not a label of {name}{where}", place, f"add it to the labels of {name}"
            )

    def must_be_known(self, of: str, node: Node) -> None:
        """Record what is not in ``of:`` of the file."""
        if of not in self.of:
            self.problems.add(
                f"of: has no {of}", node.place, nearest(of, self.of) or one_of(self.of)
            )

    def source(self, node: Node, kind: str, of: str) -> Source | None:
        """The value to copy, ``int`` or ``str``; None after recording a fault."""
        found = self.problems.attempt(lambda: self.paths.source(text(node), node.place, None))
        if found is None:
            return None
        if found.kind.name != kind or (kind == "str" and found.kind.optional):
            wanted = "a number" if kind == "int" else "a text"
            self.problems.add(f"{found.path} is {found.kind}, not {wanted}", node.place)
        allowed = self.of.get(of)
        others = [name for name in self.of if name != of]
        if found.root in others if allowed is None else found.root not in allowed:
            self.problems.add(
                f"a sample of {of} has no {found.root}",
                node.place,
                f"say of: {' or '.join(others)}",
            )
        return found

    def _taken(self, node: Node, version: str) -> Taken:
        """Raises SpecError if the file or its key is wrong."""
        name, key = child(node, "file"), optional(node, "key")
        operations = {k: text(v) for k, v in _pairs(node, "operations")}
        known = self.files[version]
        file = known.get(text(name))
        if file is None:
            raise SpecError(
                f"files.{version} has no {text(name)}",
                name.place,
                nearest(text(name), known) or one_of(known),
            )
        if operations and file.form != "devices":
            raise SpecError(f"{file.name} has no operations: its form is {file.form}", name.place)
        needs = file.form in _KEYED and not operations
        if needs and key is None:
            raise SpecError(f"{file.name} has several values", node.place, "name the key of one")
        if key is not None and not needs:
            why = "operations name its keys" if operations else f"its form is {file.form}"
            raise SpecError(f"{file.name} takes no key here: {why}", key.place)
        less = optional(node, "less")
        if less is not None and (operations or file.form == "devices" or file.pages):
            raise SpecError(f"{file.name} gives several samples", less.place)
        return Taken(
            file,
            None if key is None else text(key),
            _PER_SECOND.get(_word(node, "unit") or ""),
            None if less is None else self._taken(less, version),
            operations,
        )


def _pairs(node: Node, key: str) -> Iterator[tuple[str, Node]]:
    found = optional(node, key)
    return iter(()) if found is None else items(found)
