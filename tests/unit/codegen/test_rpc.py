"""rpc.yaml and lifecycle.yaml: every refusal, each with its text, and what a good one means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from codegen import lifecycle, plan, proto_api, rpc
from codegen.emit import services
from codegen.errors import Problems, SpecError
from codegen.model import Api
from tests.unit.codegen.project import begin, settings

PROTO = """
syntax = "proto3";

package runtime.v1;

service RuntimeService {
    rpc Stop(StopRequest) returns (StopResponse) {}
    rpc ListThings(ListRequest) returns (ListResponse) {}
    rpc StreamThings(ListRequest) returns (stream StreamResponse) {}
}

message Metadata {
    string name = 1;
}

message StopRequest {
    string id = 1;
    Metadata metadata = 2;
    string secret = 3 [debug_redact = true];
    repeated string words = 4;
}

message StopResponse {}
message ListRequest {
    string filter = 1;
}
message ListResponse {
    repeated Metadata items = 1;
}
message StreamResponse {
    repeated Metadata things = 1;
}

enum PodSandboxState {
    SANDBOX_READY = 0;
    SANDBOX_NOTREADY = 1;
}

enum ContainerState {
    CONTAINER_CREATED = 0;
    CONTAINER_EXITED = 1;
}

enum ContainerEventType {
    CREATED_EVENT = 0;
    DELETED_EVENT = 1;
}
"""

LIFECYCLE = """
sandbox:
  states:
    READY: {shown: SANDBOX_READY, why: w}
    NOTREADY: {shown: SANDBOX_NOTREADY, why: w}
  created: {state: READY, emits: [CREATED_EVENT], why: w}
  events:
    stopped:
      why: w
      transitions:
        - {from: [READY, NOTREADY], to: NOTREADY}
    removed:
      why: w
      transitions:
        - {from: [NOTREADY], to: GONE, emits: DELETED_EVENT}
container:
  states:
    CREATED: {shown: CONTAINER_CREATED, why: w}
  created: {state: CREATED, emits: [], why: w}
  events:
    removed:
      why: w
      transitions:
        - {from: [CREATED], to: GONE}
"""

RPC = """
Stop:
  served_by: sandboxes.stop
  object: {kind: sandbox, field: id, absent: ok}
  states: {allowed: [READY], otherwise: ok}
  mutates: true
  log: [metadata.name]
  why: w
ListThings:
  served_by: sandboxes.list
  why: w
StreamThings:
  batches_of: ListThings
  why: w
"""


@pytest.fixture(scope="module")
def api() -> Api:
    return proto_api.api(proto_api.descriptor(settings().api, "9.9", PROTO), "9.9", name="CRI")


def read(
    tmp_path: Path, api: Api, *, lifecycle_text: str = LIFECYCLE, rpc_text: str = RPC
) -> rpc.Rpcs:
    """Both files as models; raises SpecError with every fault."""
    begin(tmp_path)
    (tmp_path / lifecycle.FILE).write_text(lifecycle_text)
    (tmp_path / rpc.FILE).write_text(rpc_text)
    problems = Problems()
    machines = lifecycle.read(tmp_path, {n: e.values for n, e in api.enums.items()}, problems)
    rpcs = rpc.read(tmp_path, api, machines, problems)
    problems.stop_if_any()
    return rpcs


def test_a_good_specification_is_read(tmp_path: Path, api: Api) -> None:
    rpcs = read(tmp_path, api)
    stop, listed, streamed = rpcs.services[0].rpcs
    assert (stop.frame, stop.mutates, stop.shown) == ("unary", True, ("id", "metadata.name"))
    assert stop.subject == rpc.Subject("sandbox", "id", absent_is_ok=True)
    assert (listed.frame, listed.mutates, listed.shown) == ("unary", False, ())
    assert streamed.frame == "stream"
    assert streamed.batches
    assert (streamed.batches.source, streamed.batches.target) == ("items", "things")
    assert [noun.protocol for noun in rpcs.nouns] == ["SandboxOperations"]


def test_a_served_stream_is_answered_by_its_method(tmp_path: Path, api: Api) -> None:
    served = RPC.replace("batches_of: ListThings", "served_by: things.follow")
    rpcs = read(tmp_path, api, rpc_text=served)
    (handler,) = (h for h in services.text(_planned(rpcs)).handlers if h.name == "StreamThings")
    assert handler.lines == [
        "async for response in self._things.follow(request):",
        "    yield response",
    ]
    assert handler.answer == "AsyncIterator[api_pb2.StreamResponse]"


_STREAMS = """
service Streams {
    rpc Stop(google.protobuf.Empty) returns (StopResponse) {}
    rpc Send(stream StopRequest) returns (google.protobuf.Empty) {}
    rpc Talk(stream StopRequest) returns (stream StopResponse) {}
    rpc Later(stream StopRequest) returns (stream StopResponse) {}
}
"""
_SERVED_STREAMS = RPC.replace("\nStop:", "\nRuntimeService.Stop:") + """
Streams.Stop:
  served_by: streams.stop
  why: w
Send:
  served_by: streams.send
  mutates: true
  why: w
Talk:
  served_by: streams.talk
  why: w
Later:
  unserved: {issue: Later}
  why: w
"""


@pytest.fixture(scope="module")
def with_streams() -> Api:
    proto = PROTO.replace(
        "package runtime.v1;", 'package runtime.v1;\nimport "google/protobuf/empty.proto";'
    )
    descriptor = proto_api.descriptor(settings().api, "9.9", proto + _STREAMS)
    return proto_api.api(descriptor, "9.9", name="CRI")


def test_streams_of_clients_and_messages_of_protobuf_are_served(
    tmp_path: Path, with_streams: Api
) -> None:
    rpcs = read(tmp_path, with_streams, rpc_text=_SERVED_STREAMS)
    _, planned = plan.services(rpcs, {}, {}, settings())
    checked = replace(planned, validated=frozenset({"stop_request"}))
    stop, send, talk, later = services.text(checked).handlers
    assert (stop.name, stop.request) == ("Stop", "empty_pb2.Empty")
    assert stop.lines == ["return await self._streams.stop(request)"]
    each = "AsyncIterator[api_pb2.StopRequest]"
    assert (send.decorator, send.request, send.answer) == (
        "unary(mutates=True)", each, "empty_pb2.Empty",
    )  # fmt: skip
    checks = [
        f"async def requests() -> {each}:",
        "    async for one in request:",
        "        refuse_if_any(stop_request.check(one))",
        "        yield one",
        "",
    ]
    assert send.lines == [*checks, "return await self._streams.send(requests())"]
    assert talk.lines == [
        *checks,
        "async for response in self._streams.talk(requests()):",
        "    yield response",
    ]
    assert (talk.decorator, talk.answer) == ("stream()", "AsyncIterator[api_pb2.StopResponse]")
    assert later.lines[0].startswith("raise Unimplemented(")
    unchecked = services.text(planned).handlers[1]
    assert unchecked.lines == ["return await self._streams.send(request)"]
    assert "from google.protobuf import empty_pb2" in services.text(planned).imports


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\nRuntimeService.Stop:", "\nStop:", "the RPC Stop is of several services"),
        ("streams.send\n", "streams.send\n  log: [id]\n", "no single request to log fields of"),
        (
            "streams.send\n",
            "streams.send\n  object: {kind: sandbox, field: id, absent: ok}\n",
            "Send takes a stream, so its handler can look up no object",
        ),
        ("served_by: streams.talk", "batches_of: ListThings", "cannot carry parts of ListResponse"),
    ],
)
def test_what_no_stream_of_a_client_can_have_is_refused(
    tmp_path: Path, with_streams: Api, old: str, new: str, said: str
) -> None:
    assert old in _SERVED_STREAMS
    with pytest.raises(SpecError) as caught:
        read(tmp_path, with_streams, rpc_text=_SERVED_STREAMS.replace(old, new))
    assert len(caught.value.faults) == 1, str(caught.value)
    assert said in str(caught.value)


def _planned(rpcs: rpc.Rpcs) -> plan.Service:
    (service,) = plan.services(rpcs, {}, {}, settings())
    return service


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ListThings:\n", "ListThing:\n", "the CRI has no RPC ListThing"),
        ("ListThings:\n", "Others:\n", "the RPC ListThings has no entry"),
        ("field: id", "field: idd", "StopRequest has no field idd"),
        ("field: id", "field: words", "words is not an ID: it is list of str"),
        ("allowed: [READY]", "allowed: [READE]", "READE is not a state of a sandbox"),
        ("otherwise: ok", "otherwise: maybe", "Stop.states.otherwise says 'maybe'"),
        ("log: [metadata.name]", "log: [metadata]", "metadata is not a single value"),
        ("log: [metadata.name]", "log: [words]", "words is not a single value"),
        ("log: [metadata.name]", "log: [id.name]", "id of StopRequest is not a message"),
        ("log: [metadata.name]", "log: [secret]", "secret must never reach a log"),
        ("batches_of: ListThings", "batches_of: Stop", "Stop is not a served list"),
        (
            "batches_of: ListThings",
            "batches_of: ListThings\n  served_by: sandboxes.stream",
            "needs exactly one of served_by, batches_of and unserved",
        ),
        ("served_by: sandboxes.list", "served_by: list", "must be noun.method"),
        (
            "batches_of: ListThings",
            "served_by: things.follow\n  object: {kind: sandbox, field: filter, absent: ok}",
            "StreamThings streams, so its handler can look up no object",
        ),
        ("  mutates: true\n", "  mutate: true\n", "unknown key 'mutate' in Stop"),
        ("  mutates: true\n", "  mutates: true\n  mutates: true\n", "is written twice"),
    ],
)
def test_a_faulty_rpc_is_refused(tmp_path: Path, api: Api, old: str, new: str, said: str) -> None:
    assert old in RPC
    with pytest.raises(SpecError) as caught:
        read(tmp_path, api, rpc_text=RPC.replace(old, new))
    assert any(said in str(error) for error in caught.value.faults), str(caught.value)
    assert all(error.place.file == rpc.FILE and error.place.line for error in caught.value.faults)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("shown: SANDBOX_READY", "shown: SANDBOX_READ", "'SANDBOX_READ' is not a CRI state"),
        ("emits: [CREATED_EVENT]", "emits: [CREATE]", "'CREATE' is not a CRI event"),
        ("emits: DELETED_EVENT", "emits: DELETED", "'DELETED' is not a CRI event"),
        ("state: READY", "state: READI", "'READI' is not a state"),
        ("to: NOTREADY", "to: NOTREDY", "'NOTREDY' is not a state"),
        (
            "from: [READY, NOTREADY]",
            "from: [READY, READY]",
            "two transitions say what stopped does in READY",
        ),
        (
            "    NOTREADY: {",
            "    LOST: {shown: SANDBOX_NOTREADY, why: w}\n    NOTREADY: {",
            "no transition leads to the sandbox state LOST",
        ),
        ("to: GONE, emits", "to: GONE, emit", "unknown key 'emit'"),
        ("    READY: {", "    Ready: {", "must be written in capitals"),
    ],
)
def test_a_faulty_lifecycle_is_refused(
    tmp_path: Path, api: Api, old: str, new: str, said: str
) -> None:
    assert old in LIFECYCLE
    with pytest.raises(SpecError) as caught:
        read(tmp_path, api, lifecycle_text=LIFECYCLE.replace(old, new))
    assert any(said in str(error) for error in caught.value.faults), str(caught.value)


def test_the_diagram_shows_every_move_once(tmp_path: Path, api: Api) -> None:
    read(tmp_path, api)
    problems = Problems()
    enums = {name: enum.values for name, enum in api.enums.items()}
    assert lifecycle.read(tmp_path, enums, problems).machines[0].mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> READY: created",
        "    READY --> NOTREADY: stopped",
        "    NOTREADY --> [*]: removed",
    ]
