"""The generator knows nothing of this project's domain: its names are data of spec/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.codegen.project import ROOT, api, settings

_CODE = ROOT / "codegen"
_FILES = sorted(
    path
    for path in _CODE.rglob("*")
    if path.is_file() and path.suffix in (".py", ".j2", ".json", ".md")
)
_WORDS = (
    "annotation key", "apparmor", "cgroup", "cni", "containerd", "container", "cri", "crictl",
    "critest", "etcd", "image", "k8s", "kube", "kubelet", "kubernetes", "namespace", "netns", "oci",
    "pause", "pod", "registry", "rootfs", "runc", "sandbox", "seccomp", "selinux", "shim",
    "snapshot", "sysctl",
)  # fmt: skip
_EXCEPTIONS = {
    "cri-codegen": "the name of the command, also of its cache",
    "cri-containerd[codegen]": "the name of the package that has the command",
    "cri-containerd": "the name of the package that has the command",
    "RepeatedCompositeContainer": "a class of protobuf",
    "RepeatedScalarContainer": "a class of protobuf",
    "argparse.Namespace": "a class of Python",
}
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _parts(text: str) -> set[str]:
    """The words of a text in small letters; ``PodSandboxConfig`` has three."""
    for known in _EXCEPTIONS:
        text = text.replace(known, "")
    return {word.lower() for word in _PART.findall(text)}


def _found(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = _parts(line)
        for word in _WORDS:
            if word in words or f"{word}s" in words or f"{word}es" in words:
                yield f"{path.relative_to(ROOT)}:{number}: {word}"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.relative_to(_CODE).as_posix())
def test_no_file_of_the_generator_names_the_domain(path: Path) -> None:
    assert list(_found(path)) == []


def test_no_file_of_the_generator_is_named_after_the_domain() -> None:
    names = [path.relative_to(_CODE).as_posix() for path in _FILES]
    assert [name for name in names if _parts(name) & set(_WORDS)] == []


def test_no_file_of_the_generator_names_what_spec_names() -> None:
    """Messages, services, objects, packages and values of this specification."""
    known = settings()
    ours = {known.api.package, known.document.schema, *known.payloads, *known.objects}
    ours |= {*known.defaults, *known.singular, *(name for name in api().services)}
    ours |= {known.events or "", *(name for name in api().messages if len(_PART.findall(name)) > 1)}
    ours.discard("MetricDescriptor")  # also a class that generated metrics need in facts.py
    everything = "\n".join(path.read_text() for path in _FILES)
    assert sorted(n for n in ours - {""} if re.search(rf"\b{re.escape(n)}\b", everything)) == []


def test_every_exception_is_still_needed() -> None:
    everything = "\n".join(path.read_text() for path in _FILES)
    assert [name for name in _EXCEPTIONS if name not in everything] == []
