"""Which hand-written function reads or sets which field of which message, by type.

Types are followed through the syntax trees of hand-written code: annotations of parameters,
attributes and results, the fields of the proto, assignments, loops and comprehensions. A value
whose type cannot be determined this way is not followed; a test compares the result with the type
checker's.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from sys import version as version_info

from codegen import cache
from codegen.model import Api, Kind, Plan
from codegen.project import Settings
from codegen.syntax import statements

_SEQUENCES = frozenset(
    {
        "AsyncIterable", "AsyncIterator", "Collection", "Iterable", "Iterator", "MutableSequence",
        "RepeatedCompositeContainer", "RepeatedScalarContainer", "Sequence", "Set", "deque",
        "frozenset", "list", "set",
    }
)  # fmt: skip
_MAPPINGS = frozenset({"Mapping", "MutableMapping", "defaultdict", "dict"})
_SAME = frozenset({"filter", "frozenset", "iter", "list", "reversed", "set", "sorted", "tuple"})
_ITEM = frozenset({"max", "min", "next"})
_TRANSPARENT = frozenset({"Annotated", "Awaitable", "ClassVar", "Coroutine", "Final", "Optional"})
_MUTATORS = frozenset(
    {"CopyFrom", "MergeFrom", "ParseFromString", "SetInParent", "add", "append", "extend", "update"}
)
_OF_FIELDS = frozenset({"HasField", "ClearField"})


@dataclass(frozen=True, slots=True)
class Type:
    """What is known about a value: ``message`` (of the API), ``plan``, ``class`` (an instance),
    ``name`` (a module, class or function itself, by its full name), ``bound`` (a method of an
    instance), ``list``, ``map``, ``tuple`` or ``union``."""

    name: str
    ref: str = ""
    of: tuple[Type | None, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """One read of a field, or one assignment to it."""

    message: str
    field: str
    function: str
    """As in ``handled_by``."""
    file: str
    line: int
    column: int
    sets: bool
    """Whether it (also) assigns the field."""
    way: bool
    """Whether it only leads to fields below: the field holds one message."""


def uses(
    settings: Settings,
    api: Api,
    texts: Mapping[str, str],
    parsed: Callable[[str], ast.Module | None],
    plans: Iterable[Plan] = (),
) -> tuple[Use, ...]:
    """Every use of a field in the given files, sorted; ``parsed`` returns a file's tree."""
    held = messages_of(plans)
    parts = [version_info, Path(__file__).read_text(), repr((settings, api, held)), *texts]
    parts += texts.values()

    def make() -> bytes:
        trees = {file: tree for file in texts if (tree := parsed(file)) is not None}
        found = sorted(set(MessageReads(settings, api, trees, held).uses))
        return json.dumps([astuple(use) for use in found]).encode()

    made = cache.made_once("uses", tuple(part.encode() for part in parts), make)
    return tuple(Use(*values) for values in json.loads(made))


@dataclass(slots=True)
class _Class:
    module: _Module
    node: ast.ClassDef
    bases: list[str]
    attributes: dict[str, ast.expr] = field(default_factory=dict)
    """Annotations by attribute."""
    values: dict[str, tuple[ast.FunctionDef | ast.AsyncFunctionDef, ast.expr]] = field(
        default_factory=dict
    )
    """The values of ``self.x = value`` in a method, for attributes without an annotation."""
    methods: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    properties: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Module:
    name: str
    """Full dotted name."""
    file: str
    tree: ast.Module
    names: dict[str, str] = field(default_factory=dict)
    """Full names of what is imported."""
    classes: dict[str, _Class] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    aliases: dict[str, ast.expr] = field(default_factory=dict)
    """Values of module-level names."""
    annotated: dict[str, ast.expr] = field(default_factory=dict)


class MessageReads:
    """All uses of fields in the modules given as {file: tree}; files are below the root."""

    def __init__(
        self,
        settings: Settings,
        api: Api,
        trees: Mapping[str, ast.Module],
        held: Mapping[str, Mapping[str, str]],
    ) -> None:
        """``held`` are the messages of ``messages_of`` the plans."""
        self.code = settings.code
        self.stubs = f"{settings.stubs}.api_pb2"
        self.plans = f"{settings.output}.plans"
        self.readers = re.compile(rf"{settings.output}\.statuses\.(?P<module>\w+)\.read\Z")
        self.selected = re.compile(rf"{settings.output}\.filters\.\w+\.selected\Z")
        """What gives the items that pass a filter."""
        self.api = api
        self.held = held
        self.modules: dict[str, _Module] = {}
        for file, tree in trees.items():
            name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            self.modules[name] = _module(name, file, tree)
        self.uses: list[Use] = []
        self._open: set[tuple[str, str]] = set()
        """Classes and attributes whose type is currently being determined."""
        for module in self.modules.values():
            _Walk(self, module, "", {}).body(module.tree.body)
        self.uses.sort()

    # --- names

    def resolved(self, full: str) -> tuple[_Module, str] | None:
        """The module of ours that contains ``full``, and the name inside it; follows re-exports."""
        for _ in range(4):
            head, _, name = full.rpartition(".")
            module = self.modules.get(head)
            if module is None:
                return None
            if name in module.classes or name in module.functions or name in module.aliases:
                return module, name
            if name in module.annotated:
                return module, name
            if name not in module.names:
                return None
            full = module.names[name]
        return None

    def class_of(self, full: str) -> _Class | None:
        """The class of this full name."""
        found = self.resolved(full)
        return found[0].classes.get(found[1]) if found is not None else None

    # --- annotations

    def annotated(self, module: _Module, node: ast.expr | None, depth: int = 0) -> Type | None:
        """The type of an annotation."""
        if node is None or depth > 8:
            return None
        match node:
            case ast.Constant(value=str() as text):
                return self.annotated(module, ast.parse(text, mode="eval").body, depth + 1)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return union(
                    self.annotated(module, left, depth + 1),
                    self.annotated(module, right, depth + 1),
                )
            case ast.Subscript(value=value, slice=inside):
                return self._generic(module, value, inside, depth)
            case ast.Name() | ast.Attribute():
                return self._named(module, node, depth)
        return None

    def _generic(
        self, module: _Module, value: ast.expr, inside: ast.expr, depth: int
    ) -> Type | None:
        name = ast.unparse(value).rpartition(".")[2]
        if name == "Literal":
            return None
        parts = list(inside.elts) if isinstance(inside, ast.Tuple) else [inside]
        given = [self.annotated(module, part, depth + 1) for part in parts]
        if name in _TRANSPARENT:
            return given[-1] if name == "Coroutine" else given[0]
        if name in _SEQUENCES:
            return Type("list", of=(given[0],))
        if name in _MAPPINGS:
            return Type("map", of=tuple(given[:2]))
        if name in ("Callable",):
            return Type("callable", of=(given[-1],))
        if name == "tuple":
            if len(parts) == 2 and isinstance(parts[1], ast.Constant):
                return Type("list", of=(given[0],))
            return Type("tuple", of=tuple(given))
        return self.annotated(module, value, depth + 1)

    def _named(self, module: _Module, node: ast.expr, depth: int) -> Type | None:
        full = full_name(module, node)
        if full is None:
            return None
        message = self._message(full) or self._plan(full)
        if message is not None:
            return message
        found = self.resolved(full)
        if found is None:
            return None
        home, name = found
        if name in home.classes:
            return Type("class", f"{home.name}.{name}")
        if name in home.aliases:
            return self.annotated(home, home.aliases[name], depth + 1)
        return None

    def _message(self, full: str) -> Type | None:
        name = full.removeprefix(f"{self.stubs}.")
        return Type("message", name) if name != full and name in self.api.messages else None

    def _plan(self, full: str) -> Type | None:
        """A class of the generated plans."""
        name = full.removeprefix(f"{self.plans}.")
        return Type("plan", name) if name != full and name in self.held else None

    def _answered(self, full: str) -> Type | None:
        """The result of a generated status reader."""
        match = self.readers.match(full)
        if match is None:
            return None
        names = (name for name, m in self.api.messages.items() if m.module == match["module"])
        return next((Type("message", name) for name in names), None)

    # --- members

    def member(self, of: Type, name: str) -> Type | None:
        """The type of ``value.name``."""
        if of.name == "message":
            known = self.api.messages[of.ref].fields.get(name)
            return _of_kind(known.kind) if known is not None else Type("bound", name, (of,))
        if of.name == "plan":
            held = self.held[of.ref].get(name)
            return Type("message", held) if held is not None else None
        if of.name == "class":
            return self._attribute(of.ref, name)
        if of.name == "name":
            full = f"{of.ref}.{name}"
            return Type("name", full)
        return Type("bound", name, (of,))

    def _attribute(self, owner: str, name: str, depth: int = 0) -> Type | None:
        found = self.class_of(owner)
        if found is None or depth > 6:
            return None
        if name in found.attributes:
            return self.annotated(found.module, found.attributes[name])
        if name in found.properties:
            return self.annotated(found.module, found.methods[name].returns)
        if name in found.methods:
            full = f"{found.module.name}.{found.node.name}.{name}"
            return Type("name", full)
        if name in found.values:
            if (owner, name) in self._open:
                return None  # two attributes whose lambdas refer to each other
            self._open.add((owner, name))
            function, value = found.values[name]
            walk = _Walk(self, found.module, "", {}, quiet=True)
            walk.parameters(function, found)
            given = walk.type_of(value)
            self._open.remove((owner, name))
            return given
        for base in found.bases:
            inherited = self._attribute(base, name, depth + 1)
            if inherited is not None:
                return inherited
        return None

    def result(self, full: str) -> Type | None:
        """The type of the result of calling this function, method or class."""
        message = self._message(full) or self._answered(full)
        if message is not None:
            return message
        found = self.resolved(full)
        if found is not None:
            home, name = found
            if name in home.classes:
                return Type("class", f"{home.name}.{name}")
            if name in home.functions:
                return self.annotated(home, home.functions[name].returns)
            return None
        owner, _, name = full.rpartition(".")
        cls = self.class_of(owner)
        if cls is not None and name in cls.methods:
            returned = cls.methods[name].returns
            if returned is not None and ast.unparse(returned).strip("'\"") == "Self":
                return Type("class", owner)
            return self.annotated(cls.module, returned)
        return None


def messages_of(plans: Iterable[Plan]) -> dict[str, dict[str, str]]:
    """By class and property: the messages that plans hold."""
    return {
        plan.python_class: {
            name: field.kind.ref
            for name, field in plan.fields.items()
            if field.kind.name == "message"
        }
        for plan in plans
    }


def _of_kind(kind: Kind) -> Type | None:
    match kind.name:
        case "message":
            return Type("message", kind.ref)
        case "list":
            return Type("list", of=(_of_kind(kind.of[0]),))
        case "map":
            return Type("map", of=(None, _of_kind(kind.of[1])))
    return None


def full_name(module: _Module, node: ast.expr) -> str | None:
    """The full dotted name that an expression spells, if any."""
    if isinstance(node, ast.Name):
        if node.id in module.names:
            return module.names[node.id]
        own = node.id in module.classes or node.id in module.functions or node.id in module.aliases
        return f"{module.name}.{node.id}" if own or node.id in module.annotated else None
    if isinstance(node, ast.Attribute):
        owner = full_name(module, node.value)
        return f"{owner}.{node.attr}" if owner is not None else None
    return None


def _module(name: str, file: str, tree: ast.Module) -> _Module:
    module = _Module(name, file, tree)
    for node in statements(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module:
            for part in node.names:
                module.names[part.asname or part.name] = f"{node.module}.{part.name}"
        elif isinstance(node, ast.Import):
            for part in node.names:
                local = part.asname or part.name.partition(".")[0]
                module.names[local] = part.name if part.asname else local
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                module.functions[node.name] = node
            case ast.ClassDef():
                module.classes[node.name] = _class(module, node)
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                module.aliases[target] = value
            case ast.AnnAssign(target=ast.Name(id=target), annotation=annotation, value=value):
                if ast.unparse(annotation).endswith("TypeAlias") and value is not None:
                    module.aliases[target] = value
                else:
                    module.annotated[target] = annotation
    return module


def _class(module: _Module, node: ast.ClassDef) -> _Class:
    bases = [full for base in node.bases if (full := full_name(module, base)) is not None]
    found = _Class(module, node, bases)
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            found.attributes[part.target.id] = part.annotation
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            found.methods[part.name] = part
            words = [ast.unparse(d).rpartition(".")[2] for d in part.decorator_list]
            if {"property", "cached_property"} & set(words):
                found.properties.add(part.name)
            for inner in statements(part.body):
                match inner:
                    case ast.AnnAssign(
                        target=ast.Attribute(value=ast.Name(id="self"), attr=attr),
                        annotation=annotation,
                    ):
                        found.attributes.setdefault(attr, annotation)
                    case ast.Assign(
                        targets=[ast.Attribute(value=ast.Name(id="self"), attr=attr)], value=value
                    ):
                        found.values.setdefault(attr, (part, value))
    return found


@dataclass(slots=True)
class _Walk:
    """One function, or the body of a module, from top to bottom."""

    reads: MessageReads
    module: _Module
    function: str
    known: dict[str, Type | None]
    quiet: bool = False
    inside: _Class | None = None

    # --- statements

    def body(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ClassDef(name=name, body=body):
                cls = self.module.classes.get(name)
                walk = _Walk(self.reads, self.module, self._inner(name), {}, self.quiet, cls)
                walk.body(body)
            case ast.Assign(targets=targets, value=value):
                given = self.type_of(value)
                for target in targets:
                    self.bind(target, given)
            case ast.AnnAssign(target=target, annotation=annotation, value=value):
                given = self.type_of(value) if value is not None else None
                told = self.reads.annotated(self.module, annotation)
                self.bind(target, told if told is not None else given)
            case ast.For() | ast.AsyncFor():
                self.bind(node.target, self._iterated(self.type_of(node.iter)))
                self.body([*node.body, *node.orelse])
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    given = self.type_of(item.context_expr)
                    if item.optional_vars is not None:
                        self.bind(item.optional_vars, given)
                self.body(node.body)
            case ast.Match(subject=subject, cases=cases):
                given = self.type_of(subject)
                for case in cases:
                    if isinstance(case.pattern, ast.MatchAs) and case.pattern.name:
                        self.known[case.pattern.name] = given
                    if case.guard is not None:
                        self.type_of(case.guard)
                    self.body(case.body)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.stmt):
                        self.statement(child)
                    elif isinstance(child, ast.expr):
                        self.type_of(child)
                    elif isinstance(child, ast.ExceptHandler):
                        self.body(child.body)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.type_of(default)
        inherited = dict(self.known) if self.inside is None else {}
        name = self.function if self._in_function else self._inner(node.name)
        walk = _Walk(self.reads, self.module, name, inherited, self.quiet)
        walk.parameters(node, self.inside)
        walk.body(node.body)
        self.known[node.name] = None

    def parameters(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, owner: _Class | None
    ) -> None:
        """Record the types of the arguments from their annotations."""
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in given:
            self.known[argument.arg] = self.reads.annotated(self.module, argument.annotation)
        if node.args.vararg is not None:
            item = self.reads.annotated(self.module, node.args.vararg.annotation)
            self.known[node.args.vararg.arg] = Type("list", of=(item,))
        if owner is not None and given and given[0].annotation is None:
            full = f"{owner.module.name}.{owner.node.name}"
            words = [ast.unparse(d) for d in node.decorator_list]
            itself = "name" if "classmethod" in words else "class"
            self.known[given[0].arg] = None if "staticmethod" in words else Type(itself, full)

    @property
    def _in_function(self) -> bool:
        """Whether a nested function belongs to the function around it."""
        return bool(self.function) and self.inside is None

    def _inner(self, name: str) -> str:
        return f"{self.function}.{name}" if self.function else name

    def bind(self, target: ast.expr, given: Type | None) -> None:
        """Record what an assignment, a loop or a ``with`` assigns to its targets."""
        match target:
            case ast.Name(id=name):
                self.known[name] = given
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for number, part in enumerate(parts):
                    self.bind(part, part_of(given, number))
            case ast.Starred(value=value):
                self.bind(value, given)
            case ast.Attribute(value=value, attr=attr):
                for owner in alternatives(self._led_to(value)):
                    if owner.name == "message":
                        self._record(owner, attr, target, sets=True)
            case ast.Subscript(value=value):
                self.type_of(target)
                if isinstance(value, ast.Attribute):
                    self.bind(value, None)

    def _iterated(self, given: Type | None) -> Type | None:
        """What a loop over a value gives; a class says it by its ``__iter__``, or by the type that
        its generic base is of."""
        if given is None or given.name != "class":
            return item_of(given)
        found = self.reads.class_of(given.ref)
        if found is None:
            return None
        if "__iter__" in found.methods:
            return item_of(self.reads.annotated(found.module, found.methods["__iter__"].returns))
        generic = (base for base in found.node.bases if isinstance(base, ast.Subscript))
        return next((self.reads.annotated(found.module, base.slice) for base in generic), None)

    def _led_to(self, node: ast.expr) -> Type | None:
        """The type of the object that is changed, as ``a.b[0]`` in ``a.b[0].c = d``: the fields
        on the way count as changed too."""
        match node:
            case ast.Attribute(value=value, attr=attr):
                found = []
                for one in alternatives(self._led_to(value)):
                    if one.name == "message":
                        self._record(one, attr, node, sets=True)
                    found.append(self.reads.member(one, attr))
                return union(*found)
            case ast.Subscript(value=value, slice=index) if not isinstance(index, ast.Slice):
                self.type_of(index)
                return item_of(self._led_to(value), values=True)
        return self.type_of(node)

    # --- expressions

    def type_of(self, node: ast.expr) -> Type | None:
        """The type of an expression; records every read of a field on the way."""
        match node:
            case ast.Name(id=name):
                return self._name(node, name)
            case ast.Attribute(value=value, attr=attr):
                found = []
                for one in alternatives(self.type_of(value)):
                    if one.name == "message":
                        self._record(one, attr, node, sets=False)
                    found.append(self.reads.member(one, attr))
                return union(*found)
            case ast.Call():
                return self._call(node)
            case ast.Await(value=value) | ast.Starred(value=value):
                return self.type_of(value)
            case ast.NamedExpr(target=target, value=value):
                given = self.type_of(value)
                self.bind(target, given)
                return given
            case ast.Subscript(value=value, slice=index):
                owner = self.type_of(value)
                self.type_of(index)
                if owner is not None and owner.name == "tuple" and isinstance(index, ast.Constant):
                    return part_of(owner, index.value) if isinstance(index.value, int) else None
                return owner if isinstance(index, ast.Slice) else item_of(owner, values=True)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.type_of(test)
                return union(self.type_of(body), self.type_of(orelse))
            case ast.BoolOp(values=values):
                return union(*(self.type_of(value) for value in values))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node)
            case ast.Lambda(args=args, body=body):
                walk = _Walk(self.reads, self.module, self.function, dict(self.known), self.quiet)
                for argument in args.args:
                    walk.known[argument.arg] = None
                return Type("callable", of=(walk.type_of(body),))
            case ast.Tuple(elts=parts):
                return Type("tuple", of=tuple(self.type_of(part) for part in parts))
            case ast.List(elts=parts) | ast.Set(elts=parts):
                found = [self.type_of(part) for part in parts]
                starred = any(isinstance(part, ast.Starred) for part in parts)
                first = next((one for one in found if one is not None), None)
                return Type("list", of=(item_of(first) if starred else first,))
            case ast.Dict(keys=keys, values=values):
                for key in keys:
                    if key is not None:
                        self.type_of(key)
                found = [self.type_of(value) for value in values]
                first = next((one for one in found if one is not None), None)
                return Type("map", of=(None, first))
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.type_of(child)
        return None

    def _name(self, node: ast.expr, name: str) -> Type | None:
        if name in self.known:
            return self.known[name]
        full = full_name(self.module, node)
        if full is None:
            return None
        found = self.reads.resolved(full)
        if found is not None and found[1] in found[0].annotated:
            return self.reads.annotated(found[0], found[0].annotated[found[1]])
        return Type("name", full)

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> Type | None:
        walk = _Walk(self.reads, self.module, self.function, dict(self.known), self.quiet)
        for loop in node.generators:
            walk.bind(loop.target, walk._iterated(walk.type_of(loop.iter)))
            for test in loop.ifs:
                walk.type_of(test)
        if isinstance(node, ast.DictComp):
            walk.type_of(node.key)
            return Type("map", of=(None, walk.type_of(node.value)))
        return Type("list", of=(walk.type_of(node.elt),))

    def _call(self, node: ast.Call) -> Type | None:
        called = self.type_of(node.func)
        if called is not None and called.name == "union":  # a method of one of several types
            return union(*(self._result_of(one, node) for one in called.of if one is not None))
        return self._result_of(called, node)

    def _result_of(self, called: Type | None, node: ast.Call) -> Type | None:
        match node.func:
            case ast.Attribute(value=ast.Attribute() as changed, attr=attr) if attr in _MUTATORS:
                self.bind(changed, None)
        given = [self.type_of(argument) for argument in node.args]
        for keyword in node.keywords:
            self.type_of(keyword.value)
        if isinstance(node.func, ast.Name) and called is None:
            return self._builtin(node.func.id, given)
        if called is None:
            return None
        if called.name == "bound":
            return self._bound(called, node)
        if called.name == "callable":
            return called.of[0]
        if called.name != "name":
            return None
        if called.ref in ("dataclasses.replace", "copy.copy", "copy.deepcopy", "typing.cast"):
            return given[-1] if called.ref == "typing.cast" else (given[0] if given else None)
        if self.reads.selected.match(called.ref) and len(given) > 1:
            return Type("list", of=(item_of(given[1]),))
        result = self.reads.result(called.ref)
        if result is not None and result.name == "message":
            for keyword in node.keywords:
                if keyword.arg is not None:
                    self._record(result, keyword.arg, node, sets=True)
        return result

    def _builtin(self, name: str, given: list[Type | None]) -> Type | None:
        first = given[0] if given else None
        if name in _SAME:
            return given[-1] if name == "filter" else Type("list", of=(item_of(first),))
        if name in _ITEM:
            return item_of(first)
        if name == "enumerate":
            return Type("list", of=(Type("tuple", of=(None, item_of(first))),))
        if name == "zip":
            return Type("list", of=(Type("tuple", of=tuple(map(item_of, given))),))
        if name == "dict":
            return first
        return None

    def _bound(self, called: Type, node: ast.Call) -> Type | None:
        owner = called.of[0]
        assert owner is not None
        if owner.name == "message" and called.ref in _OF_FIELDS and node.args:
            word = node.args[0]
            if isinstance(word, ast.Constant) and isinstance(word.value, str):
                self._record(owner, word.value, node, sets=False, asked=True)
            return None
        if owner.name == "map":
            match called.ref:
                case "items":
                    return Type("list", of=(Type("tuple", of=owner.of),))
                case "values":
                    return Type("list", of=(owner.of[-1],))
                case "keys":
                    return Type("list", of=(owner.of[0],))
                case "get" | "pop" | "setdefault":
                    return owner.of[-1]
        if owner.name == "list" and called.ref in ("pop", "get"):
            return item_of(owner)
        return owner if called.ref == "copy" else None

    def _record(
        self, owner: Type, name: str, node: ast.expr, *, sets: bool, asked: bool = False
    ) -> None:
        known = self.reads.api.messages[owner.ref].fields.get(name)
        if known is None or self.quiet:
            return
        where = self.module.name.removeprefix(f"{self.reads.code}.")
        self.reads.uses.append(
            Use(
                owner.ref,
                name,
                f"{where}.{self.function}" if self.function else where,
                self.module.file,
                node.lineno,
                node.col_offset + 1,
                sets,
                known.kind.name == "message" and not asked,
            )
        )


def union(*types: Type | None) -> Type | None:
    """A union of several types, without the unknown ones."""
    flat = dict.fromkeys(one for given in types for one in alternatives(given))
    return Type("union", of=tuple(flat)) if len(flat) > 1 else next(iter(flat), None)


def alternatives(given: Type | None) -> tuple[Type, ...]:
    """The possible types of a value."""
    if given is None:
        return ()
    return tuple(one for one in given.of if one) if given.name == "union" else (given,)


def item_of(given: Type | None, *, values: bool = False) -> Type | None:
    """The type of the items when iterating; with ``values``, of an index or a key."""
    if given is None:
        return None
    if given.name == "union":
        return union(*(item_of(one, values=values) for one in given.of))
    if given.name == "list":
        return given.of[0]
    if given.name == "map":
        return given.of[-1 if values else 0]
    if given.name == "tuple":
        return next((one for one in given.of if one is not None), None)
    return None


def part_of(given: Type | None, number: int) -> Type | None:
    """The type of one target of an unpacking."""
    if given is not None and given.name == "tuple":
        return given.of[number] if -len(given.of) <= number < len(given.of) else None
    return item_of(given)
