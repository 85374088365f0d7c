"""generated/metrics.py: the samples of one object, metric by metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.emit.python import quoted, tuple_of, value
from codegen.metrics import VERSIONS, File, Metric, Metrics, Taken, Value
from codegen.plan import Parameter, annotation
from codegen.project import Settings


@dataclass(frozen=True, slots=True)
class Function:
    """The samples of one kind of source."""

    name: str
    doc: str
    parameters: tuple[Parameter, ...]
    lines: list[str]


@dataclass(frozen=True, slots=True)
class LabelValues:
    """The label values common to all metrics of one object."""

    of: str
    parameters: tuple[Parameter, ...]
    values: list[str]


@dataclass(frozen=True, slots=True)
class MetricsText:
    """The variables of the template."""

    labels: str
    label_values: list[LabelValues]
    descriptors: list[str]
    files: list[tuple[str, list[str]]]
    """Name and items of the constant."""
    functions: list[Function]


def text(metrics: Metrics, settings: Settings) -> MetricsText:
    """The module."""
    return MetricsText(
        tuple_of(map(quoted, metrics.labels)),
        [_labels(metrics, of, settings) for of in metrics.of],
        [_descriptor(metric) for metric in metrics.metrics],
        [
            (
                f"FILES_{version.upper()}",
                [_file(file) for file in metrics.files[version].values()],
            )
            for version in VERSIONS
        ],
        [
            *(_of_files(metrics, version) for version in VERSIONS),
            *(_copied(metrics, of, settings) for of in metrics.of),
        ],
    )


def _labels(metrics: Metrics, of: str, settings: Settings) -> LabelValues:
    sources = [sources.get(of) for sources in metrics.labels.values()]
    roots = sorted({source.root or "" for source in sources if source is not None})
    return LabelValues(
        of,
        tuple(Parameter(root, annotation(root, settings)) for root in roots),
        [quoted("") if source is None else value(source) for source in sources],
    )


def _descriptor(metric: Metric) -> str:
    own = tuple_of(["*LABELS", *map(quoted, metric.labels)]) if metric.labels else "LABELS"
    return f"facts.MetricDescriptor({quoted(metric.name)}, {quoted(metric.help)}, {own})"


def _file(file: File) -> str:
    return f"({quoted(file.controller)}, {quoted(file.name)})"


# --- files


def _of_files(metrics: Metrics, version: str) -> Function:
    found = [
        (metric, one, one.taken[version])
        for metric in metrics.metrics
        for one in metric.values
        if version in one.taken
    ]
    lines = [
        f"{file.variable} = {_parsed(file)}"
        for file in metrics.files[version].values()
        if any(file in taken.files for _, _, taken in found)
    ]
    for metric, one, taken in found:
        lines += _of_file(metric, one, taken)
    parameters = (
        Parameter("files", "Mapping[str, str]"),
        Parameter("device_names", "Mapping[tuple[str, str], str]"),
    )
    doc = f"From the files of {version}, by name; what does not exist has no sample."
    return Function(f"of_files_{version}", doc, parameters, lines)


def _parsed(file: File) -> str:
    if file.pages:
        before, after = file.pages
        return f"metrics.by_page_size(files, {quoted(before)}, {quoted(after)})"
    given = f"files.get({quoted(file.name)})"
    also = ", device_names" if file.form == "devices" else ""
    return f"metrics.{file.form}({given}{also})"


def _of_file(metric: Metric, one: Value, taken: Taken) -> Iterator[str]:
    file = taken.file
    yield f"# {metric.name}: {_words(taken)}"
    if file.form == "devices":
        yield f"for device, counts in {file.variable}.items():"
        if not taken.operations:
            read = f"counts.get({quoted(taken.key or '')})"
            yield f"    {_added(metric, one, read, {'device': 'device.name'})}"
            return
        keys = tuple_of(tuple_of(map(quoted, pair)) for pair in taken.operations.items())
        yield f"    for operation, key in {keys}:"
        names = {name: f"device.{name}" for name in ("major", "minor")}
        labels = {"device": "device.name", **names, "operation": "operation"}
        yield f"        {_added(metric, one, 'counts.get(key)', labels)}"
    elif file.pages:
        yield f"for page_size, number in {file.variable}.items():"
        yield f"    {_added(metric, one, 'number', {'pagesize': 'page_size'})}"
    else:
        yield _added(metric, one, _read(taken), {})


def _words(taken: Taken) -> str:
    said = taken.file.name + (f" {taken.key}" if taken.key else "")
    return f"{said}, less {_words(taken.less)}" if taken.less else said


def _read(taken: Taken) -> str:
    name = taken.file.variable
    read = name if taken.key is None else f"{name}.get({quoted(taken.key)})"
    if taken.less is not None:
        read = f"metrics.less({read}, {_read(taken.less)})"
    return _seconds(read, taken.per_second)


def _seconds(read: str, per_second: int | None) -> str:
    return read if per_second is None else f"metrics.seconds({read}, {per_second:_})"


# --- measured values


def _copied(metrics: Metrics, of: str, settings: Settings) -> Function:
    found = [
        (metric, one)
        for metric in metrics.metrics
        for one in metric.values
        if metric.of == of and one.copied is not None
    ]
    roots = sorted({source.root or "" for _, one in found for source in one.sources})
    lines: list[str] = []
    for metric, one in found:
        lines += _copy(metric, one, metrics.always)
    parameters = tuple(
        Parameter(root, annotation(root, settings) + ("" if root in metrics.always else " | None"))
        for root in roots
    )
    doc = f"From what is known of the {of}."
    return Function(f"of_{of}", doc, parameters, lines)


def _copy(metric: Metric, one: Value, always: frozenset[str]) -> Iterator[str]:
    assert one.copied is not None
    yield f"# {metric.name} <- {one.copied.path}"
    unsure = sorted({s.root for s in one.sources if s.root and s.root not in always})
    if unsure:
        yield f"if {' and '.join(f'{root} is not None' for root in unsure)}:"
    labels = {label: value(source) for label, source in one.labels.items()}
    added = _added(metric, one, _seconds(value(one.copied), one.per_second), labels)
    yield f"    {added}" if unsure else added


def _added(metric: Metric, one: Value, read: str, labels: dict[str, str]) -> str:
    known = labels | {label: quoted(given) for label, given in one.given.items()}
    given = "".join(f", {known[label]}" for label in metric.labels)
    return f"samples.{metric.type}({quoted(metric.name)}, {read}{given})"
