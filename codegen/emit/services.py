"""generated/handlers/<service>.py: each handler validates the request, looks up the object, refuses
wrong states and calls the operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.emit.python import imports, quoted, tuple_of
from codegen.plan import Service
from codegen.rpc import Allowed, Rpc, Subject
from codegen.well_known import python_class

_LONG = 76
"""Longer messages are split into two literals."""


@dataclass(frozen=True, slots=True)
class HandlerText:
    """One RPC."""

    name: str
    decorator: str
    request: str
    answer: str
    """The annotation of its result."""
    lines: list[str]


@dataclass(frozen=True, slots=True)
class ServiceText:
    """The variables of the template."""

    name: str
    base: str
    imports: list[str]
    constants: list[str]
    parameters: list[str]
    attributes: list[str]
    handlers: list[HandlerText]


def text(service: Service) -> ServiceText:
    """The servicer of one gRPC service."""
    rpcs = service.rpcs
    variables = ", ".join(subject.type_variable for subject in rpcs.subjects)
    base = f"api_pb2_grpc.{rpcs.name}Servicer"
    return ServiceText(
        rpcs.name,
        f"{base}, Generic[{variables}]" if variables else base,
        imports(service.imports),
        [
            _states(rpc, rpc.subject, rpc.allowed)
            for rpc in rpcs.rpcs
            if rpc.subject and rpc.allowed
        ],
        [
            "frame: Frame",
            *(f"find_{s.kind}: Lookup[{s.type_variable}]" for s in rpcs.subjects),
            *(f"{n.name}: {_generic(n.protocol, n.type_variables)}" for n in service.nouns),
        ],
        [
            "self.frame = frame",
            *(f"self._find_{s.kind} = find_{s.kind}.find" for s in rpcs.subjects),
            *(f"self._{n.name} = {n.name}" for n in service.nouns),
        ],
        [_handler(rpc, service) for rpc in rpcs.rpcs],
    )


def _generic(name: str, variables: tuple[str, ...]) -> str:
    return f"{name}[{', '.join(variables)}]" if variables else name


def _states(rpc: Rpc, subject: Subject, allowed: Allowed) -> str:
    states = (f"{subject.kind.capitalize()}State.{state}" for state in allowed.states)
    return f"_{rpc.constant}_STATES = frozenset({{{', '.join(states)}}})"


def _handler(rpc: Rpc, service: Service) -> HandlerText:
    given = [
        *(["mutates=True"] if rpc.mutates else []),
        *([f"shown={tuple_of(map(quoted, rpc.shown))}"] if rpc.shown else []),
    ]
    return HandlerText(
        rpc.method.name,
        f"{rpc.frame}({', '.join(given)})",
        rpc.asked(python_class(rpc.method.request)),
        rpc.answer,
        list(_body(rpc, service)),
    )


def _body(rpc: Rpc, service: Service) -> Iterator[str]:
    if rpc.issue:
        said = f'{rpc.name} is not served yet; see the issue "{rpc.issue}"'
        yield f"raise Unimplemented({quoted(said)})"
        if rpc.method.streams:
            yield "yield  # never reached; makes this a stream"
        return
    if rpc.method.takes_stream:
        yield from _of_stream(rpc, service)
        return
    if rpc.validator in service.validated:
        yield f"refuse_if_any({rpc.validator}.check(request))"
    if rpc.batches is not None:
        of = rpc.batches.of
        shared = ", ".join(f"{name}=request.{name}" for name in rpc.batches.shared)
        told = _told(of, service, f"{python_class(of.method.request)}({shared})")
        yield f"whole = await self._{of.operation}({told})"
        size = f", {rpc.batches.size}" if rpc.batches.size else ""
        yield f"for part in batches(whole.{rpc.batches.source}{size}):"
        yield f"    yield api_pb2.{rpc.method.response}({rpc.batches.target}=part)"
    elif rpc.subject is not None:
        yield from _of_subject(rpc, rpc.subject, service)
    else:
        yield from _answer(rpc, _told(rpc, service))


def _answer(rpc: Rpc, given: str) -> Iterator[str]:
    """Call the hand-written method and pass its answer on."""
    if rpc.method.streams:
        yield f"async for response in self._{rpc.operation}({given}):"
        yield "    yield response"
    else:
        yield f"return await self._{rpc.operation}({given})"


def _of_stream(rpc: Rpc, service: Service) -> Iterator[str]:
    """Each message of the request's stream is validated when the hand-written method takes it."""
    checks = rpc.validator in service.validated
    given = _told(rpc, service, "one")
    if not checks and given == "one":
        yield from _answer(rpc, "request")
        return
    plan = service.plans.get(rpc.method.request)
    each = plan.python_class if plan is not None else python_class(rpc.method.request)
    yield f"async def requests() -> AsyncIterator[{each}]:"
    yield "    async for one in request:"
    if checks:
        yield f"        refuse_if_any({rpc.validator}.check(one))"
    yield f"        yield {given}"
    yield ""
    yield from _answer(rpc, "requests()")


def _told(rpc: Rpc, service: Service, request: str = "request") -> str:
    """The argument of the hand-written method for a request: its plan, if there is one."""
    plan = service.plans.get(rpc.method.request)
    return f"{plan.function}({request})" if plan is not None else request


def _of_subject(rpc: Rpc, subject: Subject, service: Service) -> Iterator[str]:
    kind, empty = subject.kind, f"return {python_class(rpc.method.response)}()"
    yield f'{kind} = self._find_{kind}(request.{subject.field}, "{subject.field}")'
    yield f"if {kind} is None:"
    if subject.absent_is_ok:
        yield f"    {empty}"
    else:
        yield f'    raise NotFound(f"there is no {kind} {{request.{subject.field}}}")'
    if rpc.allowed is not None:
        yield f"if {kind}.state not in _{rpc.constant}_STATES:"
        if rpc.allowed.otherwise_is_ok:
            yield f"    {empty}"
        else:
            yield f"    raise {rpc.allowed.error}({_wrong_state(rpc, kind, rpc.allowed)})"
    yield f"return await self._{rpc.operation}({kind}, {_told(rpc, service)})"


def _wrong_state(rpc: Rpc, kind: str, allowed: Allowed) -> str:
    is_now = f"{kind} {{{kind}.id}} is {{{kind}.state.name}}; "
    needs = f"{rpc.name} needs {' or '.join(allowed.states)}"
    if len(is_now + needs) > _LONG:
        return f'f"{is_now}" "{needs}"'
    return f'f"{is_now}{needs}"'
