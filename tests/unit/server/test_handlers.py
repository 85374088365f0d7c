"""The generated servicers over a real socket: everything around the hand-written work."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from generated.cri import api_pb2
from generated.handlers.redacted import REDACTED
from generated.lifecycle import ContainerState, SandboxState
from generated.plans import CheckpointContainerPlan, ListImagesPlan, StopContainerPlan
from runtime import errors, frame
from runtime.config.tables import ConfigError
from runtime.steps.background import finished
from tests.harness.waiting import PATIENCE, until
from tests.unit.server.fakes import Line, Thing, World, empty, world


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "cri.sock"


@pytest.fixture
async def cri(socket: Path) -> AsyncIterator[World]:
    async with world(socket) as made:
        yield made


async def code_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def stop(container: str) -> api_pb2.StopContainerRequest:
    return api_pb2.StopContainerRequest(container_id=container, timeout=3)


async def test_the_socket_is_for_its_owner_only(cri: World, socket: Path) -> None:
    assert os.stat(socket).st_mode & 0o777 == 0o600


async def test_the_directory_of_the_socket_is_created_for_its_owner_only(tmp_path: Path) -> None:
    async with world(tmp_path / "new/cri.sock"):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


async def test_a_second_server_does_not_take_the_socket(cri: World, socket: Path) -> None:
    with pytest.raises(ConfigError, match="another server listens there"):
        async with world(socket):
            pass


async def test_the_work_gets_the_object_and_the_plan_of_the_request(cri: World) -> None:
    cri.operations.answers["stop"] = lambda *_: api_pb2.StopContainerResponse()
    await cri.runtime.StopContainer(stop("running"))
    (call,) = cri.operations.calls
    assert call == ("stop", cri.containers.things[0], StopContainerPlan(grace=3))


async def test_stopping_a_missing_object_succeeds(cri: World) -> None:
    await cri.runtime.StopContainer(stop("none"))
    assert cri.operations.calls == []


async def test_the_status_of_a_missing_object_is_not_found(cri: World) -> None:
    call = cri.runtime.ContainerStatus(api_pb2.ContainerStatusRequest(container_id="none"))
    assert await code_of(call) == (grpc.StatusCode.NOT_FOUND, "there is no container none")


async def test_stopping_an_object_that_does_not_run_succeeds(cri: World) -> None:
    await cri.runtime.StopContainer(stop(cri.add_container(ContainerState.EXITED)))
    assert cri.operations.calls == []


async def test_a_wrong_state_is_refused_with_what_is_needed(cri: World) -> None:
    call = cri.runtime.StartContainer(api_pb2.StartContainerRequest(container_id="running"))
    assert await code_of(call) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "container running is RUNNING; StartContainer needs CREATED",
    )


async def test_statistics_of_a_stopped_pod_are_unavailable(cri: World) -> None:
    cri.sandboxes.things.append(Thing("stopped", SandboxState.NOTREADY))
    call = cri.runtime.PodSandboxStats(api_pb2.PodSandboxStatsRequest(pod_sandbox_id="stopped"))
    assert (await code_of(call))[0] is grpc.StatusCode.UNAVAILABLE


async def test_while_closed_every_call_says_why(cri: World) -> None:
    cri.closed = "recovering"
    unary = cri.runtime.Version(api_pb2.VersionRequest())
    assert await code_of(unary) == (grpc.StatusCode.UNAVAILABLE, "recovering")
    stream = cri.runtime.StreamContainers(api_pb2.StreamContainersRequest())
    assert await code_of(stream.read()) == (grpc.StatusCode.UNAVAILABLE, "recovering")


async def test_a_wrong_request_names_every_field(cri: World) -> None:
    call = cri.runtime.RunPodSandbox(api_pb2.RunPodSandboxRequest())
    code, details = await code_of(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "config: must be set"
    assert cri.operations.calls == []


@pytest.mark.parametrize("kind", errors.CriError.__subclasses__(), ids=lambda kind: kind.__name__)
async def test_an_error_keeps_its_code_and_its_words(
    cri: World, kind: type[errors.CriError]
) -> None:
    def fail(*_: object) -> None:
        raise kind("it is so", field="config.x")

    cri.operations.answers["list"] = fail
    call = cri.images.ListImages(api_pb2.ListImagesRequest())
    assert await code_of(call) == (kind.code, "config.x: it is so")


async def test_an_error_of_containerd_keeps_its_code(cri: World) -> None:
    def fail(*_: object) -> None:
        raise aio.AioRpcError(grpc.StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), "gone")

    cri.operations.answers["list"] = fail
    call = cri.images.ListImages(api_pb2.ListImagesRequest())
    assert await code_of(call) == (grpc.StatusCode.NOT_FOUND, "cannot serve ListImages: gone")


@pytest.mark.parametrize(
    "error",
    [errors.NotFound("404 Objet non trouv\udce9\r\nx: y\x1b[31m"), ValueError("\ud800")],
    ids=["judged", "bug"],
)
async def test_invalid_text_in_an_error_still_ends_the_call(cri: World, error: Exception) -> None:
    """A status that cannot be encoded would leave the client waiting for ever."""

    def fail(*_: object) -> None:
        raise error

    cri.operations.answers["list"] = fail
    _, details = await asyncio.wait_for(
        code_of(cri.images.ListImages(api_pb2.ListImagesRequest())), 5
    )
    assert "\ufffd" in details
    assert details.isprintable()


@pytest.mark.parametrize("letter", ["a", "\N{CJK UNIFIED IDEOGRAPH-4E00}"])
async def test_a_long_error_is_truncated(cri: World, letter: str) -> None:
    """Clients refuse headers beyond 8 KiB, and with them the code."""

    def fail(*_: object) -> None:
        raise errors.NotFound(letter * 100_000)

    cri.operations.answers["list"] = fail
    code, details = await code_of(cri.images.ListImages(api_pb2.ListImagesRequest()))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith(letter * 600)
    assert details.endswith(" […]")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EISDIR])
async def test_what_the_node_lacks_is_unavailable_with_its_place(cri: World, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/var/lib/some/file")

    cri.operations.answers["list"] = fail
    code, details = await code_of(cri.images.ListImages(api_pb2.ListImagesRequest()))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert details == f"cannot serve ListImages: /var/lib/some/file: {os.strerror(number)}"
    assert [line.level for line in cri.log.lines] == ["error"]


async def test_another_error_of_the_operating_system_is_a_bug(cri: World) -> None:
    def fail(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/some/file")

    cri.operations.answers["list"] = fail
    code, _ = await code_of(cri.images.ListImages(api_pb2.ListImagesRequest()))
    assert code is grpc.StatusCode.INTERNAL


async def test_a_bug_is_internal_and_its_traceback_in_the_log(cri: World) -> None:
    cri.operations.answers["list"] = lambda *_: dict[str, object]()["x"]
    code, details = await code_of(cri.images.ListImages(api_pb2.ListImagesRequest()))
    assert code is grpc.StatusCode.INTERNAL
    assert details == "ListImages failed with an internal error: KeyError: 'x'"
    (line,) = cri.log.lines
    assert line.level == "error"
    assert isinstance(line.fields["exc_info"], KeyError)


async def test_an_archive_of_a_checkpoint_needs_an_absolute_path(cri: World) -> None:
    code, details = await code_of(
        cri.runtime.CheckpointContainer(
            api_pb2.CheckpointContainerRequest(container_id="running", location="a", timeout=-1)
        )
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "location: must be an absolute path" in details
    assert "timeout" in details


async def test_a_checkpoint_gets_path_and_timeout(cri: World) -> None:
    cri.operations.answers["checkpoint"] = lambda *_: api_pb2.CheckpointContainerResponse()
    await cri.runtime.CheckpointContainer(
        api_pb2.CheckpointContainerRequest(container_id="running", location="/a", timeout=7)
    )
    (call,) = cri.operations.calls
    assert call[-1] == CheckpointContainerPlan(archive="/a", time_limit=7)


async def test_every_rpc_is_overridden(cri: World) -> None:
    """grpc's own default answer must never be given."""
    for service in api_pb2.DESCRIPTOR.services_by_name.values():
        stub = cri.images if service.name == "ImageService" else cri.runtime
        for method in service.methods:
            request = getattr(api_pb2, method.input_type.name)()
            call = getattr(stub, method.name)(request)
            cri.operations.any = lambda *_, name=method.name: empty(name)
            try:
                await (call.read() if method.server_streaming else call)
            except aio.AioRpcError as error:
                assert "Method not implemented" not in (error.details() or ""), method.name


async def test_a_streamed_list_asks_for_what_its_filter_names(cri: World) -> None:
    cri.operations.answers["list"] = lambda *_: api_pb2.ListImagesResponse()
    wanted = api_pb2.ImageFilter(image=api_pb2.ImageSpec(image="busybox"))
    call = cri.images.StreamImages(api_pb2.StreamImagesRequest(filter=wanted))
    assert [part async for part in call] == []
    assert cri.operations.calls == [("list", ListImagesPlan(image="busybox"))]


async def test_a_streamed_list_comes_in_parts(cri: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "BATCH", 2)
    listed = api_pb2.ListContainersResponse(
        containers=[api_pb2.Container(id=str(number)) for number in range(5)]
    )
    cri.operations.answers["list"] = lambda *_: listed
    wanted = api_pb2.ContainerFilter(id="x")
    stream = cri.runtime.StreamContainers(api_pb2.StreamContainersRequest(filter=wanted))
    parts = [[container.id for container in part.containers] async for part in stream]
    assert parts == [["0", "1"], ["2", "3"], ["4"]]
    assert cri.operations.calls == [("list", api_pb2.ListContainersRequest(filter=wanted))]


async def test_an_empty_streamed_list_ends_at_once(cri: World) -> None:
    cri.operations.answers["list"] = lambda *_: api_pb2.ListPodSandboxResponse()
    stream = cri.runtime.StreamPodSandboxes(api_pb2.StreamPodSandboxesRequest())
    assert [part async for part in stream] == []


async def test_what_changes_something_is_logged_with_its_object(cri: World) -> None:
    cri.operations.answers["stop"] = lambda *_: api_pb2.StopContainerResponse()
    await cri.runtime.StopContainer(stop("running"))
    (line,) = cri.log.lines
    assert (line.level, line.event) == ("info", "StopContainer")
    assert line.fields.pop("ms") >= 0
    assert line.fields == {"container_id": "running", "timeout": 3, "code": "OK"}


async def test_what_only_reads_is_not_logged(cri: World) -> None:
    cri.operations.answers["list"] = lambda *_: api_pb2.ListContainersResponse()
    await cri.runtime.ListContainers(api_pb2.ListContainersRequest())
    assert cri.log.lines == []


async def test_secrets_reach_no_log(socket: Path) -> None:
    secret = "hunter2"
    auth = api_pb2.AuthConfig(
        username="me",
        password=secret,
        auth=secret,
        identity_token=secret,
        registry_token=secret,
    )
    request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image="x"), auth=auth)
    async with world(socket, debugging=True) as cri:
        cri.operations.answers["pull"] = lambda *_: api_pb2.PullImageResponse()
        await cri.images.PullImage(request)
        (line,) = cri.log.lines
    assert secret not in repr(line)
    assert 'username: "me"' in line.fields["request"]


async def test_environments_and_commands_reach_no_log(socket: Path) -> None:
    config = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image="x"),
        envs=[api_pb2.KeyValue(key="TOKEN", value=b"hunter2"), api_pb2.KeyValue(key="A")],
        mounts=[api_pb2.Mount(container_path="/a", host_path="/b")],
    )
    create = api_pb2.CreateContainerRequest(pod_sandbox_id="p", config=config)
    shown = frame.described(create)
    assert "hunter2" not in shown and "TOKEN" in shown and "/b" in shown
    assert create.config.envs[0].value == b"hunter2"
    exec_sync = api_pb2.ExecSyncRequest(container_id="c", cmd=["login", "hunter2"], timeout=3)
    assert frame.described(exec_sync) == 'container_id: "c" timeout: 3'


async def test_every_redacted_field_of_the_cri_is_known() -> None:
    marked = {
        (message.name, field.name)
        for message in api_pb2.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.GetOptions().debug_redact
    }
    known = {(message, field) for message, fields in REDACTED.items() for field in fields}
    assert marked
    assert known >= marked
    assert known - marked >= {
        ("KeyValue", "value"),
        ("ExecSyncRequest", "cmd"),
        ("ExecRequest", "cmd"),
    }


async def test_every_call_is_observed_once(cri: World) -> None:
    cri.operations.answers["list"] = lambda *_: api_pb2.ListImagesResponse()
    await cri.images.ListImages(api_pb2.ListImagesRequest())
    await code_of(cri.runtime.CheckpointContainer(api_pb2.CheckpointContainerRequest()))
    assert cri.observed == [
        ("ListImages", grpc.StatusCode.OK),
        ("CheckpointContainer", grpc.StatusCode.INVALID_ARGUMENT),
    ]


async def test_a_cancelled_call_cancels_the_work(cri: World) -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    cri.operations.answers["stop"] = hang
    call = cri.runtime.StopContainer(stop("running"))
    async with asyncio.timeout(PATIENCE):
        await began.wait()
        call.cancel()
        await cancelled.wait()
    await until(lambda: cri.observed)  # the frame around it needs one more iteration of the loop
    assert cri.observed == [("StopContainer", grpc.StatusCode.CANCELLED)]
    assert cri.log.lines[-1] == Line("info", "StopContainer", cri.log.lines[-1].fields)


async def test_a_shutdown_waits_for_a_call_that_its_client_gave_up(cri: World) -> None:
    began, cancelled, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def not_half_done(*_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await may_end.wait()

    cri.operations.answers["stop"] = not_half_done
    call = cri.runtime.StopContainer(stop("running"))
    async with asyncio.timeout(PATIENCE):
        await began.wait()
        call.cancel()
        await cancelled.wait()
        assert await finished(0.01) == ["StopContainer"]
        may_end.set()
        assert await finished(PATIENCE) == []


async def test_messages_of_16_mib_pass(cri: World) -> None:
    big = api_pb2.ExecSyncResponse(stdout=b"x" * (15 << 20))
    cri.operations.answers["exec_sync"] = lambda *_: big
    request = api_pb2.ExecSyncRequest(container_id="running", cmd=["true"])
    code, details = await code_of(cri.runtime.ExecSync(request))
    # This client keeps gRPC's own limit of 4 MiB: the server has sent all of it.
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "15728" in details
