"""Files that a configuration or a request names: never a FIFO, a device, or one without an end."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import regular_files
from runtime.cni.config import CniConfigError, load_file
from runtime.cni.template import write as write_from_template
from runtime.config import file as config_file
from runtime.config.tables import ConfigError
from runtime.containers.restore import _archive
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.images.registry import hosts, network
from runtime.lookups import handlers
from runtime.regular_files import UnusableFile
from runtime.streaming import tls

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"


@pytest.fixture(params=["fifo", "device", "directory", "link to a fifo"])
def unusable(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that must not be opened: each test that does would block, or read without an end."""
    path = tmp_path / "named"
    match request.param:
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case _:
            os.mkfifo(tmp_path / "fifo")
            path.symlink_to("fifo")
    return path


def test_only_a_regular_file_is_opened(unusable: Path) -> None:
    with pytest.raises(UnusableFile, match=f"it is not a regular file: '{unusable}'"):
        regular_files.read(unusable)


def test_the_limit_is_inclusive(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert regular_files.read(path, largest=5) == b"12345"
    with pytest.raises(UnusableFile, match="it is larger than 4 bytes"):
        regular_files.read(path, largest=4)


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(UnusableFile, match="it is larger than 1 MiB"):
        regular_files.read(path)


def test_a_file_whose_size_is_not_known_is_bounded_too() -> None:
    assert os.stat("/proc/self/maps").st_size == 0
    assert regular_files.read("/proc/self/maps")
    with pytest.raises(UnusableFile, match="it is larger than 9 bytes"):
        regular_files.read("/proc/self/maps", largest=9)


def test_a_link_is_followed_unless_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"linked")
    (tmp_path / "link").symlink_to("file")
    assert regular_files.read(tmp_path / "link") == b"linked"
    with pytest.raises(UnusableFile, match="it is not a regular file"):
        regular_files.read(tmp_path / "link", follow=False)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="'/nowhere/file'"):
        regular_files.read("/nowhere/file")


def test_no_descriptor_is_left(unusable: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnusableFile):
        regular_files.read(unusable)
    assert os.listdir("/proc/self/fd") == before


def test_the_configuration_must_be_a_regular_file(unusable: Path) -> None:
    with pytest.raises(ConfigError, match=f"{unusable}: cannot be read: it is not a regular file"):
        config_file.load(unusable)


def test_a_base_runtime_spec_must_be_a_regular_file(tmp_path: Path, unusable: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[containerd.runtimes.runc]\nbase_runtime_spec = "{unusable}"\n')
    with pytest.raises(ConfigError, match=f"base_runtime_spec: {unusable}: it is not a regular"):
        handlers.configured(config_file.load(path))


def test_a_hosts_toml_must_be_a_regular_file(tmp_path: Path, unusable: Path) -> None:
    (tmp_path / "r.example").mkdir()
    (tmp_path / "r.example/hosts.toml").symlink_to(unusable)
    with pytest.raises(FailedPrecondition, match=r"hosts\.toml: it is not a regular file"):
        hosts.hosts_for("r.example", str(tmp_path))


def test_the_certificates_of_a_registry_must_be_regular_files(unusable: Path) -> None:
    with pytest.raises(UnusableFile):
        network.tls_context(hosts.RegistryHost("https", "r.example", ca=(unusable,)))
    client = hosts.RegistryHost("https", "r", client=((unusable, None),), skip_verify=True)
    with pytest.raises(UnusableFile):
        network.tls_context(client)


async def test_the_key_pair_for_streams_must_be_regular_files(unusable: Path) -> None:
    pair = SimpleNamespace(tls_cert_file=str(unusable), tls_key_file=str(unusable))
    config = SimpleNamespace(x509_key_pair_streaming=pair)
    with pytest.raises(ConfigError, match=f"cannot use {unusable} .*it is not a regular file"):
        await tls.context(config, "127.0.0.1")  # type: ignore[arg-type]


def test_a_network_list_must_be_a_regular_file(unusable: Path) -> None:
    with pytest.raises(CniConfigError, match="cannot read it: it is not a regular file"):
        load_file(unusable)


def test_a_cni_template_must_be_a_regular_file(tmp_path: Path, unusable: Path) -> None:
    with pytest.raises(UnusableFile):
        write_from_template(str(unusable), str(tmp_path), ["10.0.0.0/24"])


def test_the_archive_of_a_checkpoint_must_be_a_regular_file(unusable: Path) -> None:
    with pytest.raises(InvalidArgument, match="it is not a regular file"), _archive(str(unusable)):
        pass


# Every file that runtime/ reads otherwise

_KERNEL = "files of /proc, /sys and namespaces"
_OWN = "files that this server made, in directories of its own"
_IMAGE = "regular files found in the layers of an image"
_KEEPER = "imports nothing of the server, and checks the files of logs by itself"

_READ_OTHERWISE = {
    "cni/plugin.py": "memory files",
    "commands/doctor.py": _KERNEL,
    "containers/checkpoint_archive.py": _OWN,
    "containers/image_volumes.py": _KERNEL,
    "containers/restore.py": _IMAGE,
    "images/layer_file.py": _OWN,
    "linux/children.py": _KERNEL,
    "linux/mountinfo.py": _KERNEL,
    "linux/netns.py": _KERNEL,
    "linux/signals.py": _KERNEL,
    "linux/userns.py": _KERNEL,
    "logs/client.py": _OWN,
    "logs/keeper/server.py": _KEEPER,
    "lookups/host.py": _KERNEL,
    "lookups/security.py": _KERNEL,
    "lookups/selinux.py": _KERNEL,
    "server/embedded.py": _OWN,
    "server/state_lock.py": _KERNEL,
    "stats/metrics.py": _KERNEL,
    "stats/operations.py": _KERNEL,
    "tasks/shims.py": _KERNEL,
}


def _reads(path: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text" | "read_bytes")):
                yield node.lineno
            case ast.Call(func=ast.Name(id="open"), args=[ast.Name(id="descriptor"), *_]):
                pass
            case ast.Call(func=ast.Name(id="open")):
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr="open"), args=[ast.Constant(value="rb"), *_]):
                yield node.lineno


def test_every_other_reader_has_a_reason() -> None:
    found = {
        str(path.relative_to(RUNTIME))
        for path in RUNTIME.rglob("*.py")
        if path.name != "regular_files.py" and list(_reads(path))
    }
    assert found == set(_READ_OTHERWISE)
