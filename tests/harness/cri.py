"""The kubelet's side of the socket: the CRI stubs and the requests that most tests send."""

from __future__ import annotations

import time
import uuid
from typing import Any

import grpc

from generated.cri import api_pb2, api_pb2_grpc

from .waiting import PATIENCE

MAX_MESSAGE = 16 << 20  # bytes, as the kubelet sets it


class Cri:
    """Both CRI services over one unix socket."""

    def __init__(self, socket: str):
        self.socket = socket
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.use_local_subchannel_pool", 1),
            # A start is measured to the first answered call: gRPC's own back-off, 1 s or 2.6 s,
            # would be measured instead.
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 20),
        ]
        self._channel = grpc.insecure_channel(f"unix://{socket}", options=options)
        self.runtime = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self.images = api_pb2_grpc.ImageServiceStub(self._channel)

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        """Return when Version succeeds; raises the last error after ``seconds``."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.runtime.Version(api_pb2.VersionRequest(), timeout=5)
                return
            except grpc.RpcError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        self._channel.close()

    # The walk, in the kubelet's order.

    def run_pod(self, config: api_pb2.PodSandboxConfig, handler: str = "") -> str:
        request = api_pb2.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return str(self.runtime.RunPodSandbox(request, timeout=60).pod_sandbox_id)

    def pull(self, reference: str, auth: api_pb2.AuthConfig | None = None) -> str:
        request = api_pb2.PullImageRequest(image=api_pb2.ImageSpec(image=reference), auth=auth)
        return str(self.images.PullImage(request, timeout=120).image_ref)

    def create(
        self, pod: str, config: api_pb2.ContainerConfig, pod_config: api_pb2.PodSandboxConfig
    ) -> str:
        request = api_pb2.CreateContainerRequest(
            pod_sandbox_id=pod, config=config, sandbox_config=pod_config
        )
        return str(self.runtime.CreateContainer(request, timeout=60).container_id)

    def start(self, container: str) -> None:
        request = api_pb2.StartContainerRequest(container_id=container)
        self.runtime.StartContainer(request, timeout=60)

    def exec_sync(self, container: str, *cmd: str, timeout: int = 0) -> api_pb2.ExecSyncResponse:
        request = api_pb2.ExecSyncRequest(container_id=container, cmd=cmd, timeout=timeout)
        answer: api_pb2.ExecSyncResponse = self.runtime.ExecSync(request, timeout=120)
        return answer

    def status(self, container: str) -> api_pb2.ContainerStatus:
        request = api_pb2.ContainerStatusRequest(container_id=container)
        answer: api_pb2.ContainerStatusResponse = self.runtime.ContainerStatus(request, timeout=30)
        return answer.status

    def pod_status(self, pod: str) -> api_pb2.PodSandboxStatus:
        request = api_pb2.PodSandboxStatusRequest(pod_sandbox_id=pod)
        answer: api_pb2.PodSandboxStatusResponse = self.runtime.PodSandboxStatus(
            request, timeout=30
        )
        return answer.status

    def stop(self, container: str, timeout: int = 0) -> None:
        request = api_pb2.StopContainerRequest(container_id=container, timeout=timeout)
        self.runtime.StopContainer(request, timeout=60 + timeout)

    def remove(self, container: str) -> None:
        request = api_pb2.RemoveContainerRequest(container_id=container)
        self.runtime.RemoveContainer(request, timeout=60)

    def stop_pod(self, pod: str) -> None:
        self.runtime.StopPodSandbox(api_pb2.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=60)

    def remove_pod(self, pod: str) -> None:
        self.runtime.RemovePodSandbox(
            api_pb2.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=60
        )

    def wait_for_state(
        self, container: str, state: int, seconds: float = PATIENCE
    ) -> api_pb2.ContainerStatus:
        """The status once the container is in ``state`` (an ``api_pb2.CONTAINER_*`` number)."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status(container)
            if status.state == state:
                return status
            if time.monotonic() > deadline:
                wanted = api_pb2.ContainerState.Name(state)
                raise AssertionError(f"not {wanted} within {seconds} s: {status}")
            time.sleep(0.02)


def pod_config(name: str = "pod", **fields: Any) -> api_pb2.PodSandboxConfig:
    """A pod config like the kubelet's, with a UID of its own; ``fields`` are added or replaced."""
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=name, uid=str(uuid.uuid4()), namespace="test"),
        hostname=name,
        linux=api_pb2.LinuxPodSandboxConfig(
            security_context=api_pb2.LinuxSandboxSecurityContext(
                namespace_options=api_pb2.NamespaceOption(pid=api_pb2.CONTAINER),
            ),
        ),
    )
    config.MergeFrom(api_pb2.PodSandboxConfig(**fields))
    return config


def container_config(
    image: str, *command: str, name: str = "app", **fields: Any
) -> api_pb2.ContainerConfig:
    """A container config like the kubelet's, in a PID namespace of its own."""
    config = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name=name),
        image=api_pb2.ImageSpec(image=image),
        command=command,
        log_path=f"{name}.log",
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(
                namespace_options=api_pb2.NamespaceOption(pid=api_pb2.CONTAINER),
            ),
        ),
    )
    config.MergeFrom(api_pb2.ContainerConfig(**fields))
    return config
