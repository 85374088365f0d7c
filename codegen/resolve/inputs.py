"""Calls of transforms: the function exists, and takes the inputs in ``from``."""

from __future__ import annotations

from dataclasses import replace

from codegen import kinds
from codegen.errors import Place, SpecError, nearest, one_of
from codegen.model import Argument, Call, Input, Message, Source
from codegen.paths import Paths
from codegen.python_source import Parameter, Transform
from codegen.resolve import items
from codegen.resolve.scope import Scope

_COLLECTIONS = ("list", "tuple", "set", "frozenset", "dict")


def call(
    scope: Scope, by: str, place: Place, inputs: tuple[Input, ...], own: Message | None
) -> Call:
    """The call of the transform ``by``; the inputs' paths may start with fields of ``own``."""
    paths = scope.paths
    transform = _transform(paths, by, place)
    if transform.unusable is not None:
        raise SpecError(f"{by} {transform.unusable}", transform.place, rule="transform-arguments")
    if transform.unannotated:
        raise SpecError(
            f"{by} has no annotation for {', '.join(transform.unannotated)}",
            transform.place,
            "annotate it, so that the entries that call it can be checked",
            "transform-arguments",
        )
    arguments = []
    for given in inputs:
        source = paths.source(given.path, given.place, own)
        parameter = transform.parameters.get(given.argument)
        if parameter is None:
            raise SpecError(
                f"{by} takes no argument {given.argument}",
                given.place,
                nearest(given.argument, transform.parameters)
                or one_of(transform.parameters) + "; rename with `path as name`",
                "transform-arguments",
            )
        arguments.append(_argument(scope, by, given, source, parameter))
    _check_complete(by, place, inputs, transform)
    return Call(transform.topic, transform.name, tuple(arguments), transform.returns)


def _transform(paths: Paths, by: str, place: Place) -> Transform:
    topic, _, name = by.partition(".")
    sources = paths.sources
    transform = sources.transform(topic, name)
    if transform is not None:
        return transform
    known = sources.transforms(topic)
    if known:
        raise SpecError(
            f"{sources.topic_file(topic)} has no function {name}",
            place,
            nearest(name, known) or one_of(known),
            "unknown-transform",
        )
    raise SpecError(
        f"there is no {sources.topic_file(topic)} with functions",
        place,
        nearest(topic, sources.topics()) or one_of(sources.topics()),
        "unknown-transform",
    )


def _argument(
    scope: Scope, by: str, given: Input, source: Source, parameter: Parameter
) -> Argument:
    made = items.passed(scope.paths, scope.files, source.kind, parameter.kind)
    if made is not None:
        return Argument(given.argument, source, False, None, made)
    none_if_unset = bool(source.told_by) and parameter.kind.optional
    kind = replace(source.kind, optional=source.kind.optional or none_if_unset)
    reason = kinds.why_not(kind, parameter.kind)
    held = source.kind.of[0] if source.kind.name == "list" else source.kind
    unread = held.name == "message" and held.ref not in scope.files  # reported elsewhere
    if reason is not None and not unread:
        raise SpecError(
            f"{given.path} cannot be the argument {given.argument} of {by}: {reason}",
            given.place,
            f"the argument is {parameter.kind}",
            "transform-arguments",
        )
    wanted = parameter.kind.ref if parameter.kind.name in ("list", "map") else ""
    converts = wanted in _COLLECTIONS and not kind.optional and wanted != source.kind.ref
    return Argument(given.argument, source, none_if_unset, wanted if converts else None)


def _check_complete(by: str, place: Place, inputs: tuple[Input, ...], transform: Transform) -> None:
    given = [i.argument for i in inputs]
    twice = {name for name in given if given.count(name) > 1}
    if twice:
        raise SpecError(
            f"from gives the argument {sorted(twice)[0]} of {by} twice",
            place,
            "rename one with `path as name`",
            "transform-arguments",
        )
    missing = [p.name for p in transform.parameters.values() if p.required]
    missing = [name for name in missing if name not in given]
    if missing:
        raise SpecError(
            f"{by} also needs {', '.join(missing)}",
            place,
            "add the paths to from:",
            "transform-arguments",
        )
