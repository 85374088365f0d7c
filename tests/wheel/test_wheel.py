"""The built wheel in an empty environment: it is whole, its server runs a pod."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import cgroups, images
from tests.harness.cri import container_config, pod_config
from tests.harness.leaks import Holdings
from tests.harness.node import Node
from tests.harness.registry import Registry

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("codegen", "generated", "runtime")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the wheel is made of: an earlier build's files must not get into it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, copy / name)
    for package in PACKAGES:
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / package, copy / package, ignore=leave_out)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", f"--wheel-dir={target}", str(source)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands in an environment that has the wheel and nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    subprocess.run([environment / "bin/pip", "install", "--quiet", wheel], check=True)
    return environment / "bin"


def test_the_wheel_has_every_file_of_the_packages(source: Path, wheel: Path) -> None:
    tree = {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == tree


@pytest.mark.parametrize("command", ["generate", "check", "review", "explain ContainerConfig.tty"])
def test_the_generator_says_which_extra_it_needs(commands: Path, command: str) -> None:
    done = subprocess.run(
        [commands / "cri-codegen", f"--root={PROJECT}", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'cri-containerd[codegen]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        busybox = images.image([images.layer_tar(images.busybox_files())])
        images.push(registry.url, "busybox:1", {"amd64": busybox})
        yield registry


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups")
def test_the_installed_server_runs_a_pod(commands: Path, registry: Registry) -> None:
    mirrors = {"wheel.example": registry.url}
    server = commands / "cri-containerd"
    with cgroups.without_new_default_parent():
        with Node(server=server, registry_mirrors=mirrors) as node:
            image = "wheel.example/busybox:1"
            node.cri.pull(image)
            config = pod_config("wheel", log_directory=str(node.logs))
            pod = node.cri.run_pod(config)
            command = ("sh", "-c", "echo from the wheel; sleep 1000")
            container = node.cri.create(pod, container_config(image, *command), config)
            node.cri.start(container)
            assert node.cri.exec_sync(container, "hostname").stdout == b"wheel\n"
            node.cri.stop(container)
            assert "from the wheel" in (node.logs / "app.log").read_text()
        assert node.marks.ended_with == Holdings()
