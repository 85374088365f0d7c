"""Requested fields without effect: those that the mapping ignores, and those of a newer CRI."""

from __future__ import annotations

import grpc
import pytest

from generated.cri import api_pb2
from generated.handlers.ignored import IGNORED
from runtime import frame, ignored


class Log:
    """A log that stores its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(event)

    debug = error = info


def test_fields_that_an_entry_ignores_are_found_at_any_depth() -> None:
    request = api_pb2.RunPodSandboxRequest()
    assert list(ignored.set_but_ignored(request)) == []
    request.config.windows.SetInParent()
    request.config.linux.overhead.cpu_period = 1
    request.config.linux.security_context.readonly_rootfs = True
    request.config.hostname = "used"
    assert sorted(ignored.set_but_ignored(request)) == [
        "LinuxPodSandboxConfig.overhead",
        "LinuxSandboxSecurityContext.readonly_rootfs",
        "PodSandboxConfig.windows",
    ]


def test_an_unset_value_is_not_ignored() -> None:
    request = api_pb2.RunPodSandboxRequest()
    request.config.linux.security_context.readonly_rootfs = False
    assert list(ignored.set_but_ignored(request)) == []


def test_the_fields_are_those_of_the_cri() -> None:
    for message, fields in IGNORED.items():
        known = api_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
        assert set(fields) <= set(known)


NEWER = b"\xfa\x3f\x01x"
"""Field 1023 with one byte of text."""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (api_pb2.CreateContainerRequest(pod_sandbox_id="p"), []),
        (api_pb2.CreateContainerRequest.FromString(NEWER), [("CreateContainerRequest", 1023)]),
        (
            api_pb2.CreateContainerRequest(
                config=api_pb2.ContainerConfig(
                    annotations={"a": "b"}, mounts=[api_pb2.Mount.FromString(NEWER)]
                )
            ),
            [("Mount", 1023)],
        ),
    ],
)
def test_fields_of_a_newer_cri_are_found(
    request_: api_pb2.CreateContainerRequest, expected: list[tuple[str, int]]
) -> None:
    assert list(ignored.unknown(request_)) == expected


def test_they_are_counted_for_each_request_and_logged_once() -> None:
    log, fields, messages = Log(), list[str](), list[str]()
    served = frame.Frame(
        closed=lambda: None,
        observe=lambda *_: None,
        log=log,
        debugging=False,
        set_but_ignored=fields.append,
        unknown=messages.append,
    )
    request = api_pb2.RunPodSandboxRequest.FromString(NEWER)
    request.config.windows.SetInParent()
    for code in (grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT):
        served.ended(frame.Call("RunPodSandbox", request, True, ()), code)
    served.ended(frame.Call("PodSandboxStatus", request, False, ()), grpc.StatusCode.OK)
    assert fields == ["PodSandboxConfig.windows"] * 2
    assert messages == ["RunPodSandboxRequest"] * 2
    assert [line for line in log.lines if "newer CRI" in line] == [log.lines[0]]
