"""Facts about the hand-written Python, read from its syntax tree and never by importing it.

The generator must run even if that code cannot be imported (a half-done change, a missing
dependency), so functions, annotations and dataclasses are looked up in the source.
"""

from __future__ import annotations

import ast
import builtins
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from codegen import message_reads
from codegen.errors import Place, SpecError, nearest, one_of
from codegen.load import text_file
from codegen.message_reads import Use
from codegen.model import Api, Document, Kind, Plan, snake
from codegen.project import Settings
from codegen.syntax import nodes, statements

_LISTS = {
    "list", "tuple", "Sequence", "Iterable", "Collection", "set", "frozenset", "MutableSequence"
}  # fmt: skip
_MAPS = {"dict", "Mapping", "MutableMapping"}
_SCALARS = {"str", "bytes", "bool", "float", "int"}
_ANYTHING = {"Any", "object"}

Callable = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a transform."""

    name: str
    kind: Kind
    required: bool


@dataclass(frozen=True, slots=True)
class Transform:
    """A pure function of transforms/."""

    topic: str
    name: str
    parameters: Mapping[str, Parameter]
    returns: Kind
    unannotated: tuple[str, ...]
    """What has no annotation: arguments, and the result."""
    place: Place
    unusable: str | None = None
    """Why generated code cannot call it, if it cannot."""


@dataclass(frozen=True, slots=True)
class Record:
    """One dataclass of facts.py; its fields are what mapping paths walk through."""

    name: str
    fields: Mapping[str, Kind]
    shared: bool
    """Whether it is a measurement, which only responses are read from."""
    arguments: Mapping[str, bool]
    """The fields that its constructor takes, and whether it needs them."""


@dataclass(slots=True)
class Sources:
    """The Python below one root; each file is parsed once."""

    root: Path
    settings: Settings
    api: Api
    document: Document
    plans: Mapping[str, Plan] = field(default_factory=dict)
    """What hand-written functions may be given, by name."""
    _trees: dict[str, ast.Module | None] = field(default_factory=dict)
    _records: dict[str, Record] | None = None
    _roots: dict[bool, Mapping[str, Kind]] = field(default_factory=dict)
    _uses: tuple[Use, ...] | None = None
    _read: dict[str, _Annotations] = field(default_factory=dict)
    _transforms: dict[tuple[str, str], Transform | None] = field(default_factory=dict)

    def tree(self, name: str) -> ast.Module | None:
        """The syntax tree of ``root/name``; None if there is no such file."""
        if name not in self._trees:
            exists = (self.root / name).is_file()
            self._trees[name] = parsed(text_file(self.root, name), name) if exists else None
        return self._trees[name]

    # --- transforms

    def transform(self, topic: str, name: str) -> Transform | None:
        """``topic.name`` of transforms/; None if it does not exist."""
        if (topic, name) not in self._transforms:
            self._transforms[topic, name] = self._transform(topic, name)
        return self._transforms[topic, name]

    def _transform(self, topic: str, name: str) -> Transform | None:
        file = self.topic_file(topic)
        tree = self.tree(file)
        found = _function(tree, [name]) if tree else None
        if tree is None or found is None:
            return None
        read = self._annotations(file, tree)
        arguments = found.args
        positional = [*arguments.posonlyargs, *arguments.args]
        optional = len(positional) - len(arguments.defaults)
        given = [(a, number < optional) for number, a in enumerate(positional)]
        given += [
            (a, default is None)
            for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        ]
        return Transform(
            topic,
            name,
            {a.arg: Parameter(a.arg, read.kind(a.annotation), needed) for a, needed in given},
            read.kind(found.returns),
            (
                *(a.arg for a, _ in given if a.annotation is None),
                *([] if found.returns else ["its result"]),
            ),
            Place(file, found.lineno, found.col_offset + 1),
            _why_not_callable(found) or read.why_unclear(found),
        )

    def topic_file(self, topic: str) -> str:
        """The file of a module of transforms."""
        return f"{self.settings.code}/transforms/{topic}.py"

    def _annotations(self, file: str, tree: ast.Module) -> _Annotations:
        if file not in self._read:
            self._read[file] = self._reading(tree, frozenset(self.records))
        return self._read[file]

    def _reading(self, tree: ast.Module, records: frozenset[str]) -> _Annotations:
        facts = self.tree(self.settings.facts)
        homes = {node.module or "" for node in self._shared_imports(facts)}
        homes.add(f"{self.settings.transforms}.facts")
        return _Annotations(tree, self.settings, self.api, self.document, records, frozenset(homes))

    def transforms(self, topic: str) -> list[str]:
        """The public functions of a topic, for hints."""
        tree = self.tree(self.topic_file(topic))
        return [
            node.name
            for node in (tree.body if tree else [])
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        ]

    def topics(self) -> list[str]:
        """The modules of transforms/, for hints."""
        folder = self.root / self.settings.code / "transforms"
        return sorted(p.stem for p in folder.glob("*.py") if p.stem not in ("__init__", "facts"))

    # --- facts

    @property
    def records(self) -> Mapping[str, Record]:
        """The dataclasses of facts.py by class name."""
        if self._records is None:
            tree = self.tree(self.settings.facts)
            body = tree.body if tree is not None else []
            found = [(tree, node) for node in body if isinstance(node, ast.ClassDef)]
            shared = self._shared_imports(tree)
            found += [pair for node in shared for pair in self._shared(node)]
            names = frozenset(node.name for _, node in found)
            homes = {id(home): home for home, _ in found if home is not None}
            read = {key: self._reading(home, names) for key, home in homes.items()}
            self._records = {
                node.name: _record(node, read[id(home)], shared=home is not tree)
                for home, node in found
                if home is not None
            }
        return self._records

    def _shared_imports(self, facts: ast.Module | None) -> Iterator[ast.ImportFrom]:
        """The statements by which facts.py imports from modules of lower layers."""
        for node in facts.body if facts is not None else ():
            home = node.module if isinstance(node, ast.ImportFrom) else None
            if isinstance(node, ast.ImportFrom) and f"{home}".startswith(f"{self.settings.code}."):
                yield node

    def _shared(self, node: ast.ImportFrom) -> Iterator[tuple[ast.Module, ast.ClassDef]]:
        """The classes that facts.py re-exports from a module of a lower layer, by ``import X as
        X``."""
        home = self.tree(f"{(node.module or '').replace('.', '/')}.py")
        names = {part.name for part in node.names if part.asname == part.name}
        if home is None:
            return
        for part in home.body:
            if isinstance(part, ast.ClassDef) and part.name in names:
                yield home, part

    def roots(self, *, reading: bool) -> Mapping[str, Kind]:
        """The context roots by name: one for each class of facts.py and, when a status is read, the
        measured values and the document (while a builder runs, the spec is incomplete)."""
        if reading not in self._roots:
            found = {
                snake(name): Kind("record", name)
                for name, record in self.records.items()
                if reading or not record.shared
            }
            self._roots[reading] = found | (
                {"spec": Kind("object", self.settings.document.root)} if reading else {}
            )
        return self._roots[reading]

    # --- hand-written functions

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every use of a field of a message in hand-written code, found by type."""
        if self._uses is None:
            code = self.settings.code
            paths = sorted((self.root / code).rglob("*.py"))
            files = [f"{code}/{path.relative_to(self.root / code)}" for path in paths]
            texts = {file: text_file(self.root, file) for file in files}
            self._uses = message_reads.uses(
                self.settings, self.api, texts, self.tree, self.plans.values()
            )
        return self._uses

    def function(self, dotted: str) -> tuple[str, Callable] | None:
        """(file, function) for ``module.function`` or ``module.Class.method``."""
        parts = dotted.split(".")
        for split in range(len(parts) - 1, 0, -1):
            file = "/".join([self.settings.code, *parts[:split]]) + ".py"
            tree = self.tree(file)
            if tree is not None:
                found = _function(tree, parts[split:])
                return (file, found) if found is not None else None
        return None

    def hint(self, dotted: str) -> str:
        """Suggestions for a name in ``handled_by`` that does not exist."""
        modules = self.modules()
        *parts, method = dotted.split(".")
        if len(parts) == 1 and parts[0] in self.operations():  # as served_by names it
            parts.append("operations")
            tree = self.tree(f"{self.settings.code}/{'/'.join(parts)}.py")
            classes = tree.body if tree is not None else ()
            for node in classes:
                if isinstance(node, ast.ClassDef) and _function_of(node, method):
                    return f"write {'.'.join(parts)}.{node.name}.{method}"
            dotted = ".".join([*parts, method])
        names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        known = next((name for name in names if name in modules), None)
        if known is None:
            file = f"{self.settings.code}/{'/'.join(parts)}.py"
            return nearest(names[0], modules) or f"there is no {file}"
        tree = self.tree(f"{self.settings.code}/{known.replace('.', '/')}.py")
        functions = [f"{known}.{name}" for name in (_callables(tree) if tree else ())]
        return nearest(dotted, functions) or one_of(functions)

    def operations(self) -> list[str]:
        """The packages with a class that serves RPCs."""
        folder = self.root / self.settings.code
        return sorted(path.parent.name for path in folder.glob("*/operations.py"))

    def naming(self, words: Iterable[str]) -> Iterator[tuple[str, ast.Module]]:
        """The hand-written modules that contain one of ``words``, with their files."""
        sought, folder = list(words), self.root / self.settings.code
        for path in sorted(folder.rglob("*.py")):
            name = f"{self.settings.code}/{path.relative_to(folder).as_posix()}"
            if any(word in text_file(self.root, name) for word in sought):
                tree = self.tree(name)
                if tree is not None:
                    yield name, tree

    def modules(self) -> list[str]:
        """The modules of hand-written code, packages by dotted names, for hints."""
        folder = self.root / self.settings.code
        found = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py"))
        return sorted(".".join(path.parts) for path in found if path.name != "__init__")


@functools.lru_cache(maxsize=512)  # hand-written code is read by several checks of one run
def parsed(text: str, name: str) -> ast.Module:
    """The syntax tree of ``text``, which must not be changed; errors name the file as ``name``."""
    try:
        return ast.parse(text)
    except SyntaxError as error:
        place = Place(name, error.lineno or 0, error.offset or 0)
        raise SpecError(f"is not Python: {error.msg}", place) from error
    except (MemoryError, RecursionError) as error:
        raise SpecError("is nested too deeply", Place(name)) from error
    except ValueError as error:  # a NUL
        raise SpecError(f"is not Python: {error}", Place(name)) from error


def _function(tree: ast.Module, path: list[str]) -> Callable | None:
    body: list[ast.stmt] = tree.body
    for step in path[:-1]:
        found = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == step), None)
        if found is None:
            return None
        body = found.body
    functions = (n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return next((n for n in functions if n.name == path[-1]), None)


_CACHES = ("cache", "lru_cache")
"""Decorators of functools that leave a function's arguments and result as they are."""


def _function_of(node: ast.ClassDef, name: str) -> bool:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return any(isinstance(part, functions) and part.name == name for part in node.body)


def _why_not_callable(function: Callable) -> str | None:
    """Why generated code, which gives arguments by name and takes one result, cannot call it."""
    if isinstance(function, ast.AsyncFunctionDef):
        return "is asynchronous, and a transform is not"
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if _dotted(called).rpartition(".")[2] not in _CACHES:
            return (
                f"is decorated with {_dotted(decorator)}, so its annotations do not say what it"
                f" returns; only {' and '.join(_CACHES)} may decorate a transform"
            )
    for star, several in (("*", function.args.vararg), ("**", function.args.kwarg)):
        if several is not None:
            return f"takes {star}{several.arg}, so what it is given cannot be checked"
    if function.args.posonlyargs:
        return "takes arguments by position only, and they are given by name"
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes(function)):
        return "yields values instead of returning one"
    return None


def _callables(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{part.name}"


def _record(node: ast.ClassDef, read: _Annotations, *, shared: bool) -> Record:
    fields = {
        part.target.id: read.kind(part.annotation)
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    properties = {
        part.name: read.kind(part.returns)
        for part in node.body
        if isinstance(part, ast.FunctionDef)
        and any(isinstance(d, ast.Name) and d.id == "property" for d in part.decorator_list)
    }
    arguments = {
        part.target.id: part.value is None
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }
    return Record(node.name, fields | properties, shared, arguments)


class _Annotations:
    """Reads the annotations of one module, whose imports and aliases it knows."""

    def __init__(
        self,
        tree: ast.Module,
        settings: Settings,
        api: Api,
        document: Document,
        records: frozenset[str],
        homes: frozenset[str],
    ) -> None:
        """``records`` are the classes of facts.py, and ``homes`` the modules that define them."""
        self._settings = settings
        self._homes = homes
        self._api = api
        self._document = document
        self._records = records
        self._imported = dict(_imports(tree))
        self._aliases = dict(_aliases(tree))
        self._own = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        stored = (n.id for n in nodes(tree) if isinstance(n, ast.Name) and _is_stored(n))
        self._known = {*self._imported, *self._own, *stored, *dir(builtins)}

    def why_unclear(self, function: Callable) -> str | None:
        """Why the annotations of a function mean nothing; None if they do not."""
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        written = [a.annotation for a in every if a.annotation is not None]
        written += [function.returns] if function.returns is not None else []
        for annotation in written:
            for node in nodes(annotation):
                if isinstance(node, ast.Name) and node.id not in self._known:
                    return (
                        f"has the annotation {ast.unparse(annotation)}, but its module neither"
                        f" defines nor imports {node.id}"
                    )
        return None

    def kind(self, node: ast.expr | None) -> Kind:
        """The kind of an annotation; ``any`` if there is none."""
        match node:
            case None:
                return Kind("any")
            case ast.Constant(value=None):
                return Kind("any", optional=True)
            case ast.Constant(value=str() as text):
                return self.kind(ast.parse(text, mode="eval").body)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._union([self.kind(left), self.kind(right)])
            case ast.Subscript(value=value, slice=slice_):
                return self._generic(_dotted(value).rpartition(".")[2], slice_)
            case ast.Name() | ast.Attribute():
                return self._named(_dotted(node))
        return Kind("any")

    def _union(self, kinds: list[Kind]) -> Kind:
        optional = any(kind.optional for kind in kinds)
        real = [kind for kind in kinds if kind != Kind("any", optional=True)]
        if len({replace(kind, optional=False) for kind in real}) == 1:
            return replace(real[0], optional=optional)
        return Kind("any", optional=optional)

    def _generic(self, name: str, inside: ast.expr) -> Kind:
        parts = list(inside.elts) if isinstance(inside, ast.Tuple) else [inside]
        if name == "Optional":
            return replace(self.kind(parts[0]), optional=True)
        if name == "Literal" and isinstance(parts[0], ast.Constant):
            return Kind(type(parts[0].value).__name__)
        if name in _MAPS:
            return Kind("map", name, of=(self.kind(parts[0]), self.kind(parts[1])))
        if name == "tuple" and not (
            len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is Ellipsis
        ):
            return Kind("class", f"tuple[{', '.join(map(ast.unparse, parts))}]")
        if name in _LISTS:
            return Kind("list", name, of=(self.kind(parts[0]),))
        return Kind("any")

    def _named(self, dotted: str) -> Kind:
        head, _, rest = dotted.partition(".")
        if not rest and head in _SCALARS:
            return Kind(head)
        if not rest and head in self._aliases:
            return self.kind(self._aliases[head])
        if not rest and head in self._own:
            return Kind("record" if head in self._records else "class", head)
        home = self._imported.get(head, head)
        full = f"{home}.{rest}" if rest else home
        module, _, name = full.rpartition(".")
        if name in _ANYTHING:
            return Kind("any", optional=True)
        if name in _LISTS:
            return Kind("list", name, of=(Kind("any"),))
        if name in _MAPS:
            return Kind("map", name, of=(Kind("any"), Kind("any")))
        stubs = f"{self._settings.stubs}.api_pb2"
        if module == stubs and name in self._api.messages:
            return Kind("message", name)
        if module == stubs and name in self._api.enums:
            return Kind("enum", name)
        if module == f"{self._settings.builders}.types" and name in self._document.classes:
            return Kind("object", name)
        if module in self._homes and name in self._records:
            return Kind("record", name)
        return Kind("class", full)


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _dotted(node: ast.expr) -> str:
    return ast.unparse(node)


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(local name, full name) of every import, including those under TYPE_CHECKING."""
    for node in statements(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield name.asname or name.name, f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield name.asname or name.name.partition(".")[0], name.name


def _aliases(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Module-level ``Name = annotation`` assignments that may be type aliases."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Subscript | ast.BinOp):
                yield target.id, node.value
        elif (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.value is not None
            and _dotted(node.annotation).endswith("TypeAlias")
        ):
            yield node.target.id, node.value
