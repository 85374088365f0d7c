"""The mapping as written, resolved against the CRI, the OCI spec and the hand-written Python.

Each entry is resolved alone, here; what only shows when entries are seen together (two writers of
one target, fields without a fate) is judged by ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from codegen import checks, kinds
from codegen.errors import Place, Problems, SpecError, SpecErrors, nearest, one_of
from codegen.model import (
    Argument,
    Call,
    Entry,
    Field,
    Input,
    Kind,
    Mapped,
    MappingFile,
    Message,
    Read,
    Source,
    Target,
    Test,
    Write,
)
from codegen.paths import Paths
from codegen.python_source import Parameter, Transform, reads, sets
from codegen.rpc import Rpcs

_Result = TypeVar("_Result")

_KEYS: Mapping[str, frozenset[str]] = {
    "copy": frozenset({"when", "merge", "rules"}),
    "compute": frozenset({"by", "from", "with", "merge", "rules", "back"}),
    "handled_by": frozenset({"rules"}),
    "unmapped": frozenset({"if_set", "issue"}),
}
_ALWAYS = frozenset({"like", "why"})
_ONLY_TAKING = frozenset({"merge", "rules", "with", "back"})
_WHEN_FITS: Mapping[str, frozenset[str]] = {
    "nonzero": frozenset({"int", "float", "bool", "enum"}),
    "nonempty": frozenset({"str", "bytes", "list", "map"}),
}
_MERGE_FITS = {"append": "list", "update": "map", "by-key": "list"}


def resolve(
    message: Message,
    file: MappingFile,
    files: Mapping[str, MappingFile],
    paths: Paths,
    rpcs: Rpcs | None,
    problems: Problems,
) -> Mapped:
    """One message with all that its entries lead to.

    Faults go to ``problems`` and the faulty entries are left out. ``files`` are all mapping files
    by message; ``rpcs`` is None where there is no rpc.yaml.
    """
    whole = _Whole(message, file, files, paths, rpcs)

    def tried(step: Callable[[Entry], _Result], entry: Entry) -> list[_Result]:
        try:
            return [step(entry)]
        except (SpecError, SpecErrors) as error:
            problems.take(error)
            return []

    fields = [file.entries[name] for name in message.fields if name in file.entries]
    targets = list(file.targets.values())
    sound = {e.name for e in (*fields, *targets) if tried(whole.check_keys, e)}
    fields = [entry for entry in fields if entry.name in sound]
    targets = [entry for entry in targets if entry.name in sound]
    writes = [w for e in fields if file.takes for w in tried(whole.write, e)]
    writes += [w for e in targets for w in tried(whole.write_target, e)]
    return Mapped(
        message,
        file,
        tuple(writes),
        tuple(read for e in fields if file.gives for read in tried(whole.read, e)),
        tuple(t for e in fields if file.takes for ts in tried(whole.tests, e) for t in ts),
        tuple(checks.descents(message, files)) if file.takes else (),
    )


@dataclass(frozen=True, slots=True)
class _Whole:
    """The message whose entries are being resolved; every method raises SpecError for a fault."""

    message: Message
    file: MappingFile
    files: Mapping[str, MappingFile]
    paths: Paths
    rpcs: Rpcs | None

    # --- keys

    def check_keys(self, entry: Entry) -> None:
        """The keys must go with the fate and with the flow."""
        for key, place in entry.keys.items():
            if key == entry.fate or key in _ALWAYS or self._is_target(entry):
                continue
            if key not in _KEYS[entry.fate]:
                raise SpecError(
                    f"{entry.name} is {entry.fate}, which takes no {key!r}",
                    place,
                    one_of(sorted(_KEYS[entry.fate] | _ALWAYS)),
                    "key-does-not-fit",
                )
            if key in _ONLY_TAKING and not self.file.takes:
                raise SpecError(
                    f"{entry.name} of flow out takes no {key!r}",
                    place,
                    "it speaks of received messages",
                    "key-does-not-fit",
                )
        if self._is_target(entry) and not self.file.takes:
            raise SpecError(
                f"{self.message.name} is only answered and writes no targets",
                entry.place,
                "move the entry to the message that is received",
                "key-does-not-fit",
            )
        if entry.fate == "compute":
            self._check_compute_keys(entry)
        elif entry.fate == "unmapped" and entry.value == "not-yet" and not entry.issue:
            raise SpecError(
                f"{entry.name} is not-yet and names no issue",
                entry.value_place,
                'add issue: "…", the one that will give it its fate',
                "not-yet-without-issue",
            )

    def _check_compute_keys(self, entry: Entry) -> None:
        called = entry.by is not None and "from" in entry.keys
        if entry.partner is not None and (entry.by or entry.inputs):
            raise SpecError(
                f"{entry.name} has both with and by or from",
                entry.keys["with"],
                "with says that another entry calls the transform; keep one of the two",
                "key-does-not-fit",
            )
        if entry.partner is None and not called:
            raise SpecError(
                f"{entry.name} is computed, but its entry does not say how",
                entry.place,
                "give by: and from:, or with: the field whose entry takes it as an input",
                "key-does-not-fit",
            )

    def _is_target(self, entry: Entry) -> bool:
        return self.file.targets.get(entry.name) is entry

    # --- received: writes

    def write(self, entry: Entry) -> Write:
        """The block of the builder for one field."""
        field = self.message.fields[entry.name]
        match entry.fate:
            case "unmapped":
                return Write(f"{entry.name}: unmapped, {entry.value}", entry)
            case "handled_by":
                self._check_handler(entry)
                return Write(f"{entry.name}: handled by {entry.value}", entry)
            case "copy" if entry.by_fields:
                return self._write_fields(entry, field)
            case "copy":
                return self._copy(entry, self._own(field), self._target(entry, entry.value))
        target = self._target(entry, entry.value)
        if entry.partner is not None:
            return Write(f"{entry.name}: an input of {entry.partner}", entry)
        self._check_own_input(entry)
        call = self._call(entry.by or "", entry.keys["by"], entry.inputs, self.message)
        return self._compute(f"{entry.name} -> {target.path}", entry, call, target)

    def write_target(self, entry: Entry) -> Write:
        """The block of the builder for an entry under ``targets``."""
        target = self._target(entry, entry.name)
        if entry.fate == "copy":
            source = self.paths.source(entry.value, entry.value_place, self.message)
            return self._copy(entry, source, target, f"{target.path} <- {source.path}")
        call = self._call(entry.by or "", entry.keys["by"], entry.inputs, self.message)
        return self._compute(target.path, entry, call, target)

    def _own(self, field: Field) -> Source:
        return Source(
            field.name,
            f"src.{field.name}",
            field.kind,
            None,
            field.name,
            f'src.HasField("{field.name}")' if field.presence else None,
        )

    def _target(self, entry: Entry, path: str) -> Target:
        target = self.paths.target(path, entry.value_place)
        if entry.merge is None:
            return target
        if target.element or target.kind.name != _MERGE_FITS[entry.merge]:
            raise SpecError(
                f"{path} is {target.kind}, which merge: {entry.merge} does not fit",
                entry.keys["merge"],
                "append and by-key are for lists, update is for maps",
                "merge-does-not-fit",
            )
        item = target.kind.of[0]
        if entry.merge == "by-key" and (
            item.name != "oci" or self.paths.oci.classes[item.ref].identity is None
        ):
            raise SpecError(
                f"{path} is {target.kind}, whose items have no identity",
                entry.keys["merge"],
                "use append",
                "merge-does-not-fit",
            )
        return target

    def _copy(
        self, entry: Entry, source: Source, target: Target, comment: str | None = None
    ) -> Write:
        kind = checks.narrowed(source.kind, entry.rules)
        kind = replace(kind, optional=False) if entry.when == "set" else kind
        self._check_fit(entry, f"{source.path} cannot be copied to {target.path}", kind, target)
        whole = {"list": "list({})", "map": "dict({})"}
        plain = Write("", entry, target).store != "assign" or target.kind.name not in whole
        return Write(
            comment or f"{entry.name} -> {target.path}",
            entry,
            target,
            self._condition(entry, source),
            source.expression if plain else whole[target.kind.name].format(source.expression),
            roots=frozenset({source.root} if source.root else ()),
        )

    def _check_fit(self, entry: Entry, doing: str, kind: Kind, target: Target) -> None:
        reason = kinds.why_not(kind, target.kind)
        if reason is None:
            return
        narrowing = kinds.is_narrowing(kind, target.kind)
        raise SpecError(
            f"{doing}: {reason}",
            entry.value_place,
            (
                "add a rule that says what happens to the rest, such as nonnegative or "
                f"range: [{target.kind.low}, {target.kind.high}]"
                if narrowing
                else "compute it by a transform"
            ),
            "narrowing-without-rule" if narrowing else "type-does-not-fit",
        )

    def _condition(self, entry: Entry, source: Source) -> str | None:
        self._check_when(entry, source)
        match entry.when:
            case "set":
                return source.present or f"{source.expression} is not None"
            case "nonzero" if source.kind.name != "bool":
                return f"{source.expression} != 0"
            case "nonzero" | "nonempty":
                return source.expression
        return None

    def _check_when(self, entry: Entry, source: Source) -> None:
        if entry.when == "always":
            return
        if entry.when == "set":
            fits = source.present is not None or source.kind.optional
        else:
            fits = source.kind.name in _WHEN_FITS[entry.when]
        if not fits:
            raise SpecError(
                f"when: {entry.when} cannot be asked of {source.path}, which is {source.kind}",
                entry.keys["when"],
                "set is for what has presence, nonzero for numbers and booleans, nonempty for "
                "strings, lists and maps",
                "when-does-not-fit",
            )

    def _write_fields(self, entry: Entry, field: Field) -> Write:
        nested = self._nested(entry, field)
        if field.mapped:
            raise SpecError(
                f"{entry.name} is a map, whose values have no order to be written in",
                entry.value_place,
                "compute the target from the whole map",
                "fields-do-not-fit",
            )
        if nested in self.files and not self.files[nested].takes:
            raise SpecError(
                f"{entry.name} is received, but {self.files[nested].file} is of flow out",
                entry.value_place,
                "make its flow in or both",
                "flows-differ",
            )
        return Write(
            f"{entry.name}: by the entries of {nested}",
            entry,
            condition=self._condition(entry, self._own(field)),
            nested=nested,
            each=field.repeated,
        )

    def _nested(self, entry: Entry, field: Field) -> str:
        if field.message is None:
            raise SpecError(
                f"{entry.name} is {field.kind} and has no fields of its own",
                entry.value_place,
                "name the target instead of `fields`",
                "fields-do-not-fit",
            )
        return field.message

    # --- transforms

    def _call(self, by: str, place: Place, inputs: tuple[Input, ...], own: Message | None) -> Call:
        transform = self._transform(by, place)
        arguments, roots = [], set()
        for given in inputs:
            source = self.paths.source(given.path, given.place, own)
            parameter = transform.parameters.get(given.argument)
            if parameter is None:
                raise SpecError(
                    f"{by} takes no argument {given.argument}",
                    given.place,
                    nearest(given.argument, transform.parameters)
                    or one_of(transform.parameters) + "; rename with `path as name`",
                    "transform-arguments",
                )
            arguments.append(Argument(given.argument, self._argument(by, given, source, parameter)))
            roots |= {source.root} if source.root else set()
        self._check_complete(by, place, inputs, transform)
        return Call(
            transform.topic, transform.name, tuple(arguments), transform.returns, frozenset(roots)
        )

    def _transform(self, by: str, place: Place) -> Transform:
        topic, _, name = by.partition(".")
        sources = self.paths.sources
        transform = sources.transform(topic, name)
        if transform is not None:
            return transform
        known = sources.transforms(topic)
        if known:
            hint = nearest(name, known) or one_of(known)
            raise SpecError(
                f"runtime/transforms/{topic}.py has no function {name}",
                place,
                hint,
                "unknown-transform",
            )
        raise SpecError(
            f"there is no runtime/transforms/{topic}.py with functions",
            place,
            nearest(topic, sources.topics()) or one_of(sources.topics()),
            "unknown-transform",
        )

    def _argument(self, by: str, given: Input, source: Source, parameter: Parameter) -> str:
        present = source.present is not None and parameter.kind.optional
        kind = replace(source.kind, optional=source.kind.optional or present)
        reason = kinds.why_not(kind, parameter.kind)
        if reason is not None:
            raise SpecError(
                f"{given.path} cannot be the argument {given.argument} of {by}: {reason}",
                given.place,
                f"the argument is {parameter.kind}",
                "transform-arguments",
            )
        if present:
            return f"{source.expression} if {source.present} else None"
        container = parameter.kind.ref if parameter.kind.name in ("list", "map") else ""
        wraps = container in ("list", "tuple", "set", "frozenset", "dict") and not kind.optional
        if wraps and container != source.kind.ref:
            return f"{container}({source.expression})"
        return source.expression

    def _check_complete(
        self, by: str, place: Place, inputs: tuple[Input, ...], transform: Transform
    ) -> None:
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

    def _compute(self, comment: str, entry: Entry, call: Call, target: Target) -> Write:
        returns = replace(call.returns, optional=False)
        self._check_fit(entry, f"{entry.by} cannot fill {target.path}", returns, target)
        write = Write(comment, entry, target, call=call, roots=call.roots)
        wraps = {"list": "list", "map": "dict"}.get(target.kind.name)
        wrap = wraps if write.store == "assign" and returns.ref != wraps else None
        local = target.path.rpartition("[")[0] or target.path
        return replace(
            write,
            wrap=wrap,
            local=local.rpartition(".")[2] if call.returns.optional else None,
        )

    def _check_own_input(self, entry: Entry) -> None:
        """A computed field must be looked at: by its own path, or through a context root."""
        if any(entry.name in given.path.split(".") for given in entry.inputs):
            return
        raise SpecError(
            f"{entry.name} is computed, but from: does not list it",
            entry.keys["from"],
            "add it, or say in with: which entry takes it as an input",
            "field-not-read",
        )

    # --- answered: reads

    def read(self, entry: Entry) -> Read:
        """The part of the status reader for one field."""
        field = self.message.fields[entry.name]
        name = entry.name
        match entry.fate:
            case "unmapped":
                return Read(f"{name}: unmapped, {entry.value}", name, entry)
            case "handled_by":
                if not self.file.takes:
                    self._check_handler(entry)
                return Read(f"{name}: handled by {entry.value}", name, entry)
            case "copy" if entry.by_fields:
                return self._read_fields(entry, field)
            case "copy" if self.file.takes:
                return self._read_reversed(entry, field)
            case "copy":
                return self._read_copy(entry, field, entry.value)
        by, inputs, place = entry.by, entry.inputs, entry.place
        if self.file.takes:
            if entry.back is None:
                raise SpecError(
                    f"{name} is computed and of flow both, but nothing says how it is read back",
                    entry.place,
                    "add back: {by: …, from: […]}",
                    "no-way-back",
                )
            by, inputs, place = entry.back.by, entry.back.inputs, entry.back.place
        elif entry.value != name:
            raise SpecError(
                f"{name} of flow out computes {entry.value}, but fills only itself",
                entry.value_place,
                f"write compute: {name}",
                "unknown-target",
            )
        call = self._call(by or "", place, inputs, None)
        returns = replace(call.returns, optional=False)
        self._check_field(entry, f"{by} cannot fill {name}", returns, field)
        return Read(f"{name} <- {by}", name, entry, call=call, roots=call.roots)

    def _read_fields(self, entry: Entry, field: Field) -> Read:
        nested = self._nested(entry, field)
        if field.kind.of:
            raise SpecError(
                f"{entry.name} is {field.kind}, and nothing says of what",
                entry.value_place,
                "compute it, or name the function that handles it",
                "fields-do-not-fit",
            )
        if nested in self.files and not self.files[nested].gives:
            raise SpecError(
                f"{entry.name} is answered, but {self.files[nested].file} is of flow in",
                entry.value_place,
                "make its flow out or both",
                "flows-differ",
            )
        return Read(f"{entry.name}: by the entries of {nested}", entry.name, entry, nested=nested)

    def _read_copy(self, entry: Entry, field: Field, path: str) -> Read:
        source = self.paths.source(path, entry.value_place, None)
        kind = replace(source.kind, optional=False)
        self._check_field(entry, f"{path} cannot be copied to {entry.name}", kind, field)
        self._check_when(entry, source)
        value = source.expression
        if source.present is not None:
            value = f"{value} if {source.present} else None"
        elif entry.when in ("nonzero", "nonempty"):
            value = f"{value} or None"
        return self._copied(entry, path, value, source.root)

    def _read_reversed(self, entry: Entry, field: Field) -> Read:
        """A copy of flow both reverses by itself: the OCI spec says what was copied there."""
        target = self.paths.target(entry.value, entry.value_place)
        if target.record or entry.merge:
            raise SpecError(
                f"{entry.name} cannot be read back from {entry.value}",
                entry.value_place,
                "compute it, and say in back: how it is read",
                "no-way-back",
            )
        kind = replace(target.kind, low=None, high=None)
        self._check_field(entry, f"{entry.value} cannot give {entry.name}", kind, field)
        value = "spec" + target.expression.removeprefix("out")
        if target.element:
            value = value.replace('["', '.get("').replace('"]', '")')
        return self._copied(entry, f"spec.{target.path}", value, "spec")

    def _copied(self, entry: Entry, path: str, value: str, root: str | None) -> Read:
        return Read(
            f"{entry.name} <- {path}",
            entry.name,
            entry,
            value=value,
            roots=frozenset({root} if root else ()),
        )

    def _check_field(self, entry: Entry, doing: str, kind: Kind, field: Field) -> None:
        reason = kinds.why_not(kind, field.kind)
        if reason is not None:
            raise SpecError(
                f"{doing}: {reason}",
                entry.value_place,
                None if entry.fate == "compute" else "compute it by a transform",
                "type-does-not-fit",
            )

    # --- hand-written code

    def _check_handler(self, entry: Entry) -> None:
        """The function that ``handled_by`` names must exist and look at the field."""
        if entry.value.startswith("rpc."):
            self._check_rpc(entry)
            return
        sources = self.paths.sources
        found = sources.function(entry.value)
        if found is None:
            module = sources.module_of(entry.value)
            known = sources.functions(module)
            raise SpecError(
                f"{entry.name} is handled by {entry.value}, which does not exist",
                entry.value_place,
                (
                    (nearest(entry.value, known) or one_of(known))
                    if known
                    else nearest(module, sources.modules()) or f"there is no runtime/{module}.py"
                ),
                "unknown-handler",
            )
        file, function = found
        taken = self.file.takes and reads(function, entry.name)
        given = self.file.gives and sets(function, entry.name)
        if not (taken or given):
            verb = "reads" if self.file.takes else "sets"
            raise SpecError(
                f"{entry.name} is handled by {entry.value}, but that function never {verb} it",
                entry.value_place,
                f"see {file}:{function.lineno}; name the function that does, or change the fate",
                "field-not-read" if self.file.takes else "field-not-set",
            )

    def _check_rpc(self, entry: Entry) -> None:
        """The generated handler looks at the field that rpc.yaml names, and at what a streaming
        list shares with its unary one."""
        name = entry.value.removeprefix("rpc.")
        rpc = self.rpcs.find(name) if self.rpcs is not None else None
        if rpc is None:
            raise SpecError(
                f"{entry.name} is handled by the RPC {name}, which rpc.yaml does not have",
                entry.value_place,
                None,
                "unknown-handler",
            )
        looks_at = set()
        if rpc.subject is not None:
            looks_at.add((rpc.method.request, rpc.subject.field))
        if rpc.batches is not None:
            looks_at |= {(rpc.method.request, field) for field in rpc.batches.shared}
            looks_at.add((rpc.method.response, rpc.batches.target))
        if (self.message.name, entry.name) not in looks_at:
            raise SpecError(
                f"the handler of {name} does not look at {entry.name} of {self.message.name}",
                entry.value_place,
                "it looks at "
                + (", ".join(sorted(f"{m}.{f}" for m, f in looks_at)) or "no field by itself"),
                "field-not-read",
            )

    def tests(self, entry: Entry) -> tuple[Test, ...]:
        """The validator's tests for one field."""
        return checks.tests(self.message, entry, self.paths.api)
