"""Whether hand-written code names only what the stubs of the current API define.

A new version may rename or drop a message, an enum or a value. Python notices only when the name is
looked up, often as the server starts, so every name of ``api_pb2`` and ``api_pb2_grpc`` that
the hand-written code and its tests spell is looked up here, by syntax tree.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from sys import version_info

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message as AnyMessage

from codegen import cache, project, proto_api, stubs
from codegen.errors import Place, Problems, nearest
from codegen.load import text_file
from codegen.model import Api
from codegen.python_source import parsed
from codegen.syntax import nodes, statements

_OF_ENUMS = frozenset(dir(EnumTypeWrapper)) | {"ValueType"}
_OF_MESSAGES = frozenset(dir(AnyMessage)) | {"FromString", "Extensions"}
_READ_NAMES = frozenset({"DESCRIPTOR", "Name", "Value", "items", "keys"})
_CHAIN = re.compile(r"\b(api_pb2(?:_grpc)?)((?:\s*\.\s*\w+)*)")
_OTHER_FORMS = re.compile(
    r"""api_pb2\w*\s+(?:as|import)\b   # from … import Order
    | ^\w+\s*=[\s(]*[\w.]*api_pb2[\w.\s]*(?:\)|\#|$)  # State = api_pb2.OrderState
    | \.\s*Value\s*\(                  # api_pb2.OrderState.Value("SENT")
    | ^(?!\s*(?:from\s.*\s)?api_pb2).*\bapi_pb2(?:_grpc)?\b(?!\s*\.)  # as a value
    | \\\n""",
    re.M | re.X,
)
"""Imports of names, other names for something, values looked up by a string, the module as a value:
what only a syntax tree can follow."""


@dataclass(frozen=True, slots=True, order=True)
class Spelled:
    """A name of the stubs in hand-written code."""

    file: str
    line: int
    column: int
    owner: str
    """What it is looked up in: ``api_pb2``, or a message or enum of it."""
    name: str


def check(root: Path, api: Api, problems: Problems) -> None:
    """Record a fault for each name in hand-written code and tests/ that ``api`` does not define."""
    defined = _Defined(api)
    found = spelled(root, problems, unless=defined.has_all)
    lacking = [s for s in found if not defined.has(s.owner, s.name)]
    if not lacking:
        return
    others = list(_others(root, api.version))
    for one in lacking:
        problems.add(
            f"{one.owner} of {api.name} {api.version} has no {one.name}",
            Place(one.file, one.line, one.column),
            _hint(one, api, defined, others),
        )


def names_read(root: Path, enum: str) -> list[str]:
    """The places of hand-written code that read the names of an enum's values: what relies on a
    name there does not spell it, so nothing else finds it."""
    code = project.read(root).code
    return [
        f"{one.file}:{one.line}"
        for one in spelled(root, Problems())
        if one.owner == f"api_pb2.{enum}"
        and one.name in _READ_NAMES
        and one.file.startswith(f"{code}/")
    ]


def spelled(
    root: Path, problems: Problems, unless: Callable[[str], bool] = lambda text: False
) -> tuple[Spelled, ...]:
    """Every name of the API's stubs that hand-written code and tests/ spell, sorted; without the
    files of which ``unless`` is true."""
    settings = project.read(root)
    texts: dict[str, str] = {}
    for folder in (settings.code, "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            file = f"{folder}/{path.relative_to(root / folder).as_posix()}"
            text = problems.attempt(partial(text_file, root, file))
            if text is not None and "api_pb2" in text and not unless(text):
                texts[file] = text
    package = f"{settings.stubs}."
    parts = [str(version_info), package, Path(__file__).read_text()]
    parts += [word for item in texts.items() for word in item]
    key = cache.digest(b"api names", *(part.encode() for part in parts))
    kept = cache.get(key)
    if kept is not None:
        return tuple(Spelled(*values) for values in json.loads(kept))
    trees = {file: problems.attempt(partial(parsed, text, file)) for file, text in texts.items()}
    found = {
        s for file, tree in trees.items() if tree is not None for s in _spelled(file, tree, package)
    }
    if None not in trees.values():
        cache.put(key, json.dumps([astuple(one) for one in sorted(found)]).encode())
    return tuple(sorted(found))


def _spelled(file: str, tree: ast.Module, package: str) -> Iterator[Spelled]:
    names: dict[str, str] = {}
    for node in statements(tree.body):
        match node:
            case ast.ImportFrom(module=str(module), names=parts, level=0):
                for part in parts:
                    full = f"{module}.{part.name}"
                    names[part.asname or part.name] = full
                    if module.startswith(package) and part.name != "*":
                        owner = module.removeprefix(package)
                        yield Spelled(file, part.lineno, part.col_offset + 1, owner, part.name)
            case ast.Import(names=parts):
                for part in parts:
                    local = part.asname or part.name.partition(".")[0]
                    names[local] = part.name if part.asname else local
    for node in tree.body:  # an alias, such as State = api_pb2.OrderState
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                full_name = _full_name(value, names)
                if full_name is not None:
                    names[target] = full_name
    for inner in nodes(tree):
        match inner:
            case ast.Attribute(value=value, attr=attr):
                yield from _looked_up(file, inner, value, attr, names, package)
            case ast.Call(
                func=ast.Attribute(value=value, attr="Value"),
                args=[ast.Constant(value=str(word)) as constant],
            ):
                yield from _looked_up(file, constant, value, word, names, package)


def _looked_up(
    file: str, at: ast.expr, value: ast.expr, name: str, names: Mapping[str, str], package: str
) -> Iterator[Spelled]:
    owner = _full_name(value, names)
    if owner is None or not owner.startswith(package):
        return
    line, end = at.end_lineno or at.lineno, at.end_col_offset or at.col_offset
    start = end - len(name) if isinstance(at, ast.Attribute) else at.col_offset
    yield Spelled(file, line, start + 1, owner.removeprefix(package), name)


def _full_name(node: ast.expr, names: Mapping[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _full_name(node.value, names)
        return f"{owner}.{node.attr}" if owner is not None else None
    return None


class _Defined:
    """What the stubs of one version define, by owner."""

    def __init__(self, api: Api) -> None:
        self.values: dict[tuple[str, str], tuple[str, int]] = {}
        """(owner, name of an enum value): the enum and the number."""
        grpc = {
            word
            for name in api.services
            for word in (name, f"{name}Stub", f"{name}Servicer", f"add_{name}Servicer_to_server")
        }
        self.names: dict[str, set[str]] = {"api_pb2": {"DESCRIPTOR"}, "api_pb2_grpc": grpc}
        for name, message in api.messages.items():
            numbers = {f"{field.upper()}_FIELD_NUMBER" for field in message.fields}
            entries = {_entry(f.name) for f in message.fields.values() if f.kind.name == "map"}
            self._add(name, _OF_MESSAGES | numbers | entries | message.fields.keys())
        for name, enum in api.enums.items():
            self._add(name, _OF_ENUMS | enum.values.keys())
            outer = f"api_pb2.{name}".rpartition(".")[0]
            self.names.setdefault(outer, set()).update(enum.values)
            for value, number in enum.values.items():
                self.values[outer, value] = self.values[f"api_pb2.{name}", value] = (name, number)

    def _add(self, name: str, inside: Iterable[str]) -> None:
        outer, _, last = f"api_pb2.{name}".rpartition(".")
        self.names.setdefault(outer, set()).add(last)
        self.names.setdefault(f"api_pb2.{name}", set()).update(inside)

    def has(self, owner: str, name: str) -> bool:
        """Whether ``owner`` has ``name``; so it is said of an owner that does not exist itself or
        is not a message, an enum or a module: the fault is another's."""
        dunder = name.startswith("__") and name.endswith("__")
        return dunder or owner not in self.names or name in self.names[owner]

    def has_all(self, text: str) -> bool:
        """Whether a file surely spells only names that exist, without a look at its syntax tree,
        which would take most of the time; False if only that can tell."""
        if _OTHER_FORMS.search(text):
            return False
        for module, rest in set(_CHAIN.findall(text)):
            names = rest.replace(" ", "").replace("\n", "").split(".")[1:]
            owner = module
            for name in names:
                if owner in self.names and not self.has(owner, name):
                    return False
                owner = f"{owner}.{name}"
        return True


def _entry(field: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in field.split("_")) + "Entry"


def _others(root: Path, current: str) -> Iterator[Api]:
    """The other pinned versions: the newest older one first, then the newer ones."""
    texts, served = proto_api.pinned(root), project.read(root).api
    at = stubs.order(current)
    older = [v for v in texts if stubs.order(v) < at]
    newer = [v for v in texts if stubs.order(v) > at]
    for version in [*reversed(older), *newer]:
        descriptor = proto_api.descriptor(served, version, texts[version])
        yield proto_api.api(descriptor, version, name=served.name)


def _hint(one: Spelled, api: Api, defined: _Defined, others: Iterable[Api]) -> str:
    for other in others:
        before = _Defined(other)
        if one.name not in before.names.get(one.owner, ()):
            continue
        if (one.owner, one.name) in before.values:
            enum, number = before.values[one.owner, one.name]
            enum = api.former.now(enum) or enum
            known = api.enums[enum].values if enum in api.enums else {}
            renamed = [name for name, value in known.items() if value == number]
            if renamed:
                return f"renamed: the value {number} of {enum} is now {' or '.join(renamed)}"
        path = f"{one.owner}.{one.name}".partition(".")[2]
        return api.former.hint(path) or (
            f"{api.name} {other.version} has it; see cri-codegen diff {other.version} {api.version}"
        )
    return (
        nearest(one.name, defined.names[one.owner]) or f"no pinned version of the {api.name} has it"
    )
