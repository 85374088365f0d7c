"""Pods with user namespaces on the real daemon: their IDs, their files, and what they cannot
access.

The handler ``mapped`` uses the newest runc available, so that user namespaces work on the system's
older containerd as well; there the root file systems are copies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from tests.harness import images
from tests.harness.cri import container_config, pod_config
from tests.harness.node import Containerd, Node, containerds
from tests.harness.registry import Registry
from tests.harness.streams import connected, forward, ports
from tests.harness.waiting import wait_until

from .conftest import BUSYBOX, HOST

APP = f"{HOST}/owned:1"
FIRST, GROUPS, SIZE = 300000, 400000, 65536
UIDS = [api_pb2.IDMapping(container_id=0, host_id=FIRST, length=SIZE)]
GIDS = [api_pb2.IDMapping(container_id=0, host_id=GROUPS, length=SIZE)]
HANDLER = "mapped"


def _newest_runc() -> str | None:
    """The newest runc, if it supports idmapped mounts; Debian 12's does not."""
    runc = containerds()[-1].runc
    told = subprocess.run([runc, "features"], capture_output=True, text=True, check=False).stdout
    return runc if re.search(r'"idmap":\s*{\s*"enabled":\s*true', told) else None


@pytest.fixture(scope="module")
def runc() -> str:
    found = _newest_runc()
    if found is None:
        pytest.skip("no runc here maps the ids of mounts (1.2 or newer)")
    return found


@pytest.fixture(scope="module", params=containerds(), ids=lambda containerd: containerd.name)
def node(request: pytest.FixtureRequest, registry: Registry, runc: str) -> Iterator[Node]:
    containerd: Containerd = request.param
    files: dict[str, bytes | str | None] = {
        **images.busybox_files(),
        "etc/passwd": b"root:x:0:0::/:\nweb:x:1000:1001::/:\n",
        "data": None,
        "data/seed": b"from the image",
    }
    owned = images.image(
        [images.layer_tar(files, {"bin/busybox": 0o4755})], {"Volumes": {"/data": {}}}
    )
    images.push(registry.url, "owned:1", {"amd64": owned})
    handler = f'[containerd.runtimes.{HANDLER}]\noptions = {{ BinaryName = "{runc}" }}\n'
    with Node(
        containerd=containerd, registry_mirrors={HOST: registry.url}, extra_config=handler
    ) as node:
        for image in (BUSYBOX, APP):
            node.cri.pull(image)
        yield node


def options(**others: Any) -> api_pb2.NamespaceOption:
    users = api_pb2.UserNamespace(mode=api_pb2.POD, uids=UIDS, gids=GIDS)
    modes: dict[str, Any] = {"pid": api_pb2.CONTAINER, **others}
    return api_pb2.NamespaceOption(**modes, userns_options=users)


def image_volume(path: str, image: str) -> api_pb2.Mount:
    """An image volume as the kubelet requests it."""
    return api_pb2.Mount(
        container_path=path,
        readonly=True,
        image=api_pb2.ImageSpec(image=image),
        uidMappings=UIDS,
        gidMappings=GIDS,
    )


class Pod:
    """A pod with a user namespace."""

    def __init__(self, node: Node, **others: int):
        self.cri, self.node = node.cri, node
        self.config = pod_config("users", log_directory=str(node.logs))
        if others.get("network") == api_pb2.NODE:
            self.config.hostname = ""
        context = self.config.linux.security_context
        context.namespace_options.CopyFrom(options(**others))
        self.options = context.namespace_options
        self.id = self.cri.run_pod(self.config, HANDLER)

    def create(self, *command: str, image: str = APP, **fields: Any) -> str:
        config = container_config(image, *command, **fields)
        config.linux.security_context.namespace_options.CopyFrom(self.options)
        return self.cri.create(self.id, config, self.config)

    def run(self, *command: str, **fields: Any) -> str:
        container = self.create(*command, **fields)
        self.cri.start(container)
        return container

    def shell(self, container: str, script: str) -> str:
        done = self.cri.exec_sync(container, "sh", "-c", script)
        assert done.exit_code == 0, done
        return done.stdout.decode().strip()

    def pid(self, container: str) -> int:
        """The first process's pid on the node."""
        request = api_pb2.ContainerStatusRequest(container_id=container, verbose=True)
        info = self.cri.runtime.ContainerStatus(request).info["info"]
        return int(json.loads(info)["pid"])


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    try:
        yield Pod(node)
    finally:
        node.remove_pods()


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def volume(node: Node, name: str, *, mapped: bool) -> api_pb2.Mount:
    directory = node.directory / name
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    mount = api_pb2.Mount(container_path=f"/{name}", host_path=str(directory))
    if mapped:
        mount.uidMappings.extend(UIDS)
        mount.gidMappings.extend(GIDS)
    return mount


def test_status_offers_user_namespaces_if_the_binary_supports_them(node: Node) -> None:
    status = node.cri.runtime.Status(api_pb2.StatusRequest())
    offered = {one.name: one.features.user_namespaces for one in status.runtime_handlers}
    assert offered[HANDLER]
    assert status.features.user_namespaces_host_network


def test_every_file_of_a_container_has_the_owner_that_it_expects(pod: Pod, node: Node) -> None:
    (node.directory / "plain").mkdir(exist_ok=True)
    secret = node.directory / "plain/secret"
    secret.write_text("of the node's root")
    secret.chmod(0o600)
    mounts = [volume(node, "idmapped", mapped=True), volume(node, "plain", mapped=False)]
    container = pod.run("sleep", "1000", mounts=mounts)
    assert pod.shell(
        container, "id -u; id -g; cat /proc/self/uid_map /proc/self/gid_map"
    ).split() == [
        *("0", "0"),
        *("0", str(FIRST), str(SIZE)),
        *("0", str(GROUPS), str(SIZE)),
    ]
    files = "/ /bin/busybox /etc/hostname /etc/hosts /etc/resolv.conf /dev/shm /data /data/seed"
    owners = pod.shell(container, f"stat -c '%n %u:%g' {files} /idmapped").splitlines()
    assert [line.partition(" ")[2] for line in owners] == ["0:0"] * 9
    # and can be written by the pod's root
    pod.shell(container, "for f in /etc/hosts /dev/shm/x /data/x /bin/x; do echo x >> $f; done")
    pod.shell(container, "touch /idmapped/file /plain/file && chown 5:6 /idmapped/file")
    assert owner(node.directory / "idmapped/file") == (5, 6)
    # without an idmapped mount, its files belong to its IDs on the node, and never to the node's
    # root
    assert owner(node.directory / "plain/file") == (FIRST, GROUPS)
    denied = pod.cri.exec_sync(container, "cat", "/plain/secret")
    assert (denied.exit_code, denied.stdout) == (1, b"")
    assert b"Permission denied" in denied.stderr
    assert pod.cri.exec_sync(container, "chown", "0", "/plain/secret").exit_code == 1
    status = Path(f"/proc/{pod.pid(container)}/status").read_text()
    assert re.search(rf"^Uid:(\t{FIRST}){{4}}$", status, re.M)
    assert re.search(rf"^Gid:(\t{GROUPS}){{4}}$", status, re.M)
    pause = Path(f"/proc/{os.getpid()}/ns/user")
    assert os.stat(f"/proc/{pod.pid(container)}/ns/user").st_ino != os.stat(pause).st_ino
    # a file with set-id root does not give anybody the node's root
    assert pod.shell(container, "/bin/busybox su web -s /bin/sh -c 'id -u'") == "1000"


def test_a_user_of_the_pod_can_open_its_output_again(pod: Pod, node: Node) -> None:
    user = api_pb2.LinuxContainerSecurityContext(run_as_user=api_pb2.Int64Value(value=1000))
    container = pod.run(
        *("sh", "-c", "echo mine > /dev/stdout; id -u; exit 3"),
        linux=api_pb2.LinuxContainerConfig(security_context=user),
    )
    assert pod.cri.wait_for_state(container, api_pb2.CONTAINER_EXITED).exit_code == 3
    lines = (node.logs / "app.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines[-2:]] == ["mine", "1000"]


def test_devices_of_the_node_under_their_own_and_other_names(pod: Pod) -> None:
    devices = [
        api_pb2.Device(host_path="/dev/zero", container_path=path, permissions="r")
        for path in ("/dev/zero", "/dev/renamed", "/opt/renamed")
    ]
    container = pod.run("sleep", "1000", devices=devices)
    for path in ("/dev/zero", "/dev/renamed", "/opt/renamed"):
        assert pod.shell(container, f"test -c {path} && head -c 3 {path} | wc -c") == "3"
    # what the request does not allow, the cgroup denies
    denied = pod.cri.exec_sync(container, "sh", "-c", "echo x > /dev/renamed")
    assert b"not permitted" in denied.stderr


async def test_streams_statistics_and_the_network_of_a_pod(pod: Pod, node: Node) -> None:
    container = pod.run("nc", "-ll", "-p", "8080", "-e", "cat")
    capable = api_pb2.LinuxContainerSecurityContext(
        capabilities=api_pb2.Capability(add_capabilities=["NET_ADMIN"])
    )
    admin = pod.run(
        *("sh", "-c", "ip addr add 198.51.100.7/32 dev lo && exec sleep 1000"),
        name="admin",
        linux=api_pb2.LinuxContainerConfig(security_context=capable),
    )
    wait_until(lambda: ":8080 " in pod.shell(container, "netstat -ltn"))
    # the pod's root owns its network: with the capability it may change it
    wait_until(lambda: "198.51.100.7" in pod.shell(admin, "ip addr show lo"))
    assert pod.shell(admin, "stat -c %u /proc/sys/net/ipv4/ip_forward /sys/class/net/lo") == "0\n0"
    forwarded = api_pb2.PortForwardRequest(pod_sandbox_id=pod.id, port=[8080])
    async with ports(pod.cri.runtime.PortForward(forwarded).url) as streams:
        data, _ = await forward(streams, 8080, 1)
        await streams.send(data, b"hello")
        await streams.until(lambda: streams.received[data] == b"hello")
    tty = api_pb2.ExecRequest(
        container_id=container, cmd=["sh", "-c", "tty; id -u"], tty=True, stdin=True, stdout=True
    )
    async with connected(
        pod.cri.runtime.Exec(tty).url, "websocket", "", ("error", "stdout", "stdin")
    ) as streams:
        await streams.all_ended(("error", "stdout"))
        assert streams.received["stdout"].split() == [b"/dev/pts/0", b"0"]
    listed = pod.cri.runtime.ListPodSandboxStats(api_pb2.ListPodSandboxStatsRequest()).stats
    (linux,) = [one.linux for one in listed if one.attributes.id == pod.id]
    assert linux.network.default_interface.rx_bytes.value > 0
    assert {one.attributes.id for one in linux.containers} == {container, admin}


def test_a_new_server_goes_on_with_the_pod(pod: Pod, node: Node) -> None:
    container = pod.run("sleep", "1000")
    node.stop(signal.SIGKILL)
    node.start()
    assert pod.shell(container, "id -u") == "0"
    later = pod.run("sleep", "1000", name="later")
    assert pod.shell(later, "cat /proc/self/uid_map").split() == ["0", str(FIRST), str(SIZE)]
    assert owner_of_namespace(pod.pid(later)) == owner_of_namespace(pod.pid(container))
    pod.cri.stop_pod(pod.id)
    pinned = "pinned-namespaces"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    assert not [line for line in mounts if pinned in line and str(node.directory) in line]
    assert list((node.directory / "state").rglob(f"{pinned}/user")) != []
    pod.cri.remove_pod(pod.id)
    assert list((node.directory / "state").rglob(pinned)) == []


def owner_of_namespace(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/user").st_ino


def test_a_user_namespace_on_the_nodes_network(node: Node) -> None:
    try:
        pod = Pod(node, network=api_pb2.NODE)
        container = pod.run("sleep", "1000")
        assert pod.shell(container, "cat /proc/self/uid_map").split()[1] == str(FIRST)
        assert pod.shell(container, "hostname") == os.uname().nodename
        assert (
            os.stat(f"/proc/{pod.pid(container)}/ns/net").st_ino
            == os.stat("/proc/self/ns/net").st_ino
        )
        # nothing in the node's /sys is writable, at any depth
        mounts = Path(f"/proc/{pod.pid(container)}/mountinfo").read_text().splitlines()
        below_sys = [line.split() for line in mounts if line.split()[4].startswith("/sys")]
        first, *_ = below_sys
        assert "ro" in first[5].split(",")
        assert pod.cri.exec_sync(container, "mount", "-o", "remount,rw", "/sys").exit_code != 0
    finally:
        node.remove_pods()


def refusal(call: Any) -> str:
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT, error.value
    return str(error.value.details())


def test_an_invalid_user_namespace_is_refused_with_its_field(pod: Pod, node: Node) -> None:
    field = "config.linux.security_context.namespace_options"
    pods = len(node.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items)
    for kind in ("pid", "ipc"):
        told = refusal(lambda kind=kind: Pod(node, **{kind: api_pb2.NODE}))
        assert told.startswith(f"{field}.{kind}: must not be NODE in a pod with a user namespace")
    without = container_config(APP, "true")
    told = refusal(lambda: node.cri.create(pod.id, without, pod.config))
    assert told.startswith(f"{field}.userns_options: must be the pod's")
    unmappable = volume(node, "idmapped", mapped=True)
    unmappable.host_path = "/sys/kernel"
    told = refusal(lambda: pod.create("true", mounts=[unmappable]))
    assert told.startswith(
        "config.mounts[0].uidMappings: cannot map the IDs of a mount of /sys/ker"
    )
    half = volume(node, "idmapped", mapped=True)
    del half.gidMappings[:]
    assert "config.mounts[0].uidMappings: " in refusal(lambda: pod.create("true", mounts=[half]))
    absent = api_pb2.LinuxContainerSecurityContext(run_as_user=api_pb2.Int64Value(value=70000))
    told = refusal(
        lambda: pod.create("true", linux=api_pb2.LinuxContainerConfig(security_context=absent))
    )
    assert "run_as_user: user 70000 of the request or the image does not exist" in told
    listed = node.cri.runtime.ListContainers(api_pb2.ListContainersRequest()).containers
    assert list(listed) == []
    assert len(node.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items) == pods


def test_the_default_handler_says_why_it_cannot(node: Node) -> None:
    status = node.cri.runtime.Status(api_pb2.StatusRequest())
    offered = {one.name: one.features.user_namespaces for one in status.runtime_handlers}
    config = pod_config("users")
    config.linux.security_context.namespace_options.CopyFrom(options())
    if offered[""]:
        node.cri.run_pod(config)
        node.remove_pods()
    else:
        told = refusal(lambda: node.cri.run_pod(config))
        assert "its OCI runtime has no idmapped mounts" in told
        assert "runc 1.2 or newer" in told


def test_files_of_image_volumes_have_their_owners(pod: Pod, node: Node, registry: Registry) -> None:
    """An overlay of several layers, which cannot be mounted idmapped itself, and a single one."""
    layers = [
        images.layer_tar({"a": b"1"}),
        images.layer_tar({"b": None, "b/secret": b"2"}, {"b/secret": 0o600}),
    ]
    for name, count in (("two", 2), ("one", 1)):
        images.push(registry.url, f"{name}:1", {"amd64": images.image(layers[-count:])})
        node.cri.pull(f"{HOST}/{name}:1")
    mounts = [image_volume(f"/{name}", f"{HOST}/{name}:1") for name in ("one", "two")]
    container = pod.run("sleep", "99", mounts=mounts)
    assert pod.shell(container, "stat -c %u:%g /one/b/secret /two/b/secret /two/a") == (
        "0:0\n0:0\n0:0"
    )
    assert pod.shell(container, "cat /one/b/secret /two/b/secret") == "22"
    assert pod.shell(container, "touch /two/x 2>&1 || true").endswith("Read-only file system")
    node.cri.stop_pod(pod.id)
    directory = node.directory / "state/io.containerd.grpc.v1.cri/image-volumes"
    assert list(directory.iterdir()) == []
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
