"""All mistakes in spec/ are reported at once, each with its place; none causes a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from codegen import generate
from codegen.__main__ import main
from codegen.errors import Fault, SpecError
from tests.unit.codegen.project import api, copy_of_spec

_PROTO = f"spec/cri/{api().version}.proto"
_READ = (
    "spec/cni/runtime_config.schema.json",
    "spec/lifecycle.yaml",
    "spec/mapping/container_config.yaml",
    "spec/oci/default_container.json",
    "spec/oci/default_sandbox.json",
    "spec/oci/runtime.schema.json",
    "spec/oci/seccomp.json",
    "spec/rpc.yaml",
    "spec/containerd/containers.proto",
)
_SCHEMA_OF = {
    "spec/oci/default_container.json": "spec/oci/runtime.schema.json",
    "spec/oci/default_sandbox.json": "spec/oci/runtime.schema.json",
}
"""By schema: the files that cannot be checked while it is damaged."""
_PROTOS = (_PROTO, "spec/cri/1.30.proto")


def _faults(root: Path) -> list[Fault]:
    with pytest.raises(SpecError) as raised:
        generate.load_project(root)
    return list(raised.value.faults)


def _change(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text, f"{name} has no {old!r}"
    (root / name).write_text(text.replace(old, new, 1))


def test_mistakes_in_all_files_are_reported_together(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    _change(tmp_path, "spec/rpc.yaml", "served_by: node.version", "served: node.version")
    _change(tmp_path, "spec/lifecycle.yaml", "shown: SANDBOX_READY", "shown: SANDBOX_READI")
    _change(tmp_path, "spec/oci/default_sandbox.json", '"ociVersion": "', '"ociVersion": 1, "x": "')
    _change(tmp_path, "spec/oci/seccomp.json", "{", "{,")
    _change(tmp_path, "spec/oci/runtime.schema.json", '"x-identity": "path"', '"x-identity": "pat"')
    _change(tmp_path, "spec/mapping/mount.yaml", "flow: in", "flow: inn")
    _change(tmp_path, "spec/mapping/key_value.yaml", "message: runtime.v1.", "message: v1.")
    found = _faults(tmp_path)
    assert found == sorted(set(found)), "sorted, and each once"
    assert all(fault.place.line for fault in found), found
    assert {(f.place.file, f.message.partition(":")[0]) for f in found} == {
        ("spec/rpc.yaml", "unknown key 'served' in Version"),
        ("spec/rpc.yaml", "Version needs exactly one of served_by, batches_of and unserved; "
         "states need an object"),
        ("spec/lifecycle.yaml", "'SANDBOX_READI' is not a CRI state"),
        ("spec/oci/default_sandbox.json", "ociVersion must be of type string"),
        ("spec/oci/seccomp.json", "is not JSON"),
        ("spec/oci/runtime.schema.json",
         "x-identity of LinuxDevice names pat, which is not a string property of it"),
        ("spec/mapping/mount.yaml", "flow says 'inn'"),
        ("spec/mapping/key_value.yaml", "v1.KeyValue is not a message of runtime.v1"),
    }  # fmt: skip


def test_one_mistake_is_reported_once_even_if_much_depends_on_it(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    (tmp_path / "runtime").unlink()
    shutil.copytree(Path(__file__).parents[3] / "runtime", tmp_path / "runtime")
    (tmp_path / "runtime/transforms/security.py").write_text("def capabilities(:\n")
    found = _faults(tmp_path)
    assert [str(fault) for fault in found] == [
        "runtime/transforms/security.py:1:18: is not Python: invalid syntax"
    ]


def _not_there(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _holds(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


_DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": _not_there,
    "a folder": _a_folder,
    "empty": _holds(b""),
    "binary": _holds(b"\x00\xff\xfe\x07"),
    "latin": _holds("message: Schlüssel".encode("latin-1")),
    "an empty object": _holds(b"{}"),
    "a list": _holds(b"[1, 2]\n"),
    "a word": _holds(b"word\n"),
    "deep": _holds(b"[" * 100_000),
    "nested wrong": _holds(b'{"$defs": 1, "type": {"a": []}, "message": [], "sandbox": 3}'),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    """All files at once; then the protos, without which less can be checked."""
    copy_of_spec(tmp_path)
    for name in _READ:
        _DAMAGE[damage](tmp_path / name)
    told = {fault.place.file for fault in _faults(tmp_path)}
    sound = set()
    if damage in ("an empty object", "nested wrong"):
        sound.add("spec/oci/seccomp.json")  # any object
    if damage == "missing":
        sound.add("spec/mapping/container_config.yaml")  # told when the schemas can be read again
    silent = {name for name in _READ if name not in told} - sound
    assert {name for name in silent if _SCHEMA_OF.get(name) not in told} == set()


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_proto_is_named(tmp_path: Path, damage: str) -> None:
    copy_of_spec(tmp_path)
    for name in _PROTOS:
        _DAMAGE[damage](tmp_path / name)
    told = {fault.place.file for fault in _faults(tmp_path)}
    if damage == "missing":
        assert told == {"spec/cri/current"}
    else:
        assert told & set(_PROTOS), told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "1:1: is empty and names no CRI version"),
        (b"\n\n", "1:1: is empty and names no CRI version"),
        (b"v1.36\n", "1:1: holds 'v1.36', which names no CRI version"),
        (b"1.36\n1.35\n", r"1:1: holds '1.36\n1.35', which names no CRI version"),
        (b"9.99\n", "1:1: names version '9.99', but spec/cri/9.99.proto does not exist"),
        (b"1.3\xff", "1:4: is not UTF-8: byte 0xff"),
    ],
)
@pytest.mark.parametrize("command", ["check", "generate", "review", "diff HEAD"])
def test_a_wrong_current_version_is_named(
    tmp_path: Path, command: str, content: bytes, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    (tmp_path / "spec/cri/current").write_bytes(content)
    assert main(["--root", str(tmp_path), *command.split()]) == 1
    assert capsys.readouterr().err.startswith(f"spec/cri/current:{says}\n")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("spec/cri/current", "binary"),
        ("spec/rpc.yaml", "deep"),
        ("spec/oci/runtime.schema.json", "nested wrong"),
        ("spec/oci/runtime.schema.json", "missing"),
    ],
)
def test_the_command_ends_with_1_and_no_traceback(
    tmp_path: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_of_spec(tmp_path)
    _DAMAGE[damage](tmp_path / name)
    assert main(["--root", str(tmp_path), "check"]) == 1
    assert capsys.readouterr().err.startswith(f"{name}")
    main(["--root", str(tmp_path), "review"])


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("spec/oci/runtime.schema.json", '"hostname": {', '"x": true, "hostname": {',
         "Spec.x is no schema but true"),
        ("spec/oci/default_sandbox.json", "{", '{"y": ' + "9" * 5000 + ",",
         "is not JSON: a number has too many digits"),
        ("spec/mapping/port_mapping.yaml", "range: [0, 65535]", "range: [0, " + "9" * 5000 + "]",
         "fields.container_port.rules.0 must be required, "),
        (_PROTO, 'syntax = "proto3"', 'edition = "2023"',
         "is written in editions; a CRI definition is proto3"),
    ],
)  # fmt: skip
def test_a_value_that_no_reader_expects_is_named(
    tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    copy_of_spec(tmp_path)
    _change(tmp_path, name, old, new)
    assert [f for f in _faults(tmp_path) if f.place.file == name and f.message.startswith(said)]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    (tmp_path / "spec/rpc.yaml").unlink()
    os.mkfifo(tmp_path / "spec/rpc.yaml")
    assert any(
        str(f).startswith("spec/rpc.yaml: cannot be read: it is a pipe") for f in _faults(tmp_path)
    )


_ALONE = {
    "spec/project.yaml: code names the package runtimes": (
        "spec/project.yaml", "code: runtime", "code: runtimes"
    ),
    "spec/project.yaml: output names the package made": (
        "spec/project.yaml", "output: generated", "output: made"
    ),
    "spec/project.yaml: package is runtime.v2, but the protos in spec/cri are of runtime.v1": (
        "spec/project.yaml", "package: runtime.v1", "package: runtime.v2"
    ),
    "spec/cri/1.30.proto: is of package runtime.v2, not runtime.v1": (
        "spec/cri/1.30.proto", "package runtime.v1", "package runtime.v2"
    ),
    "spec/cni/runtime_config.schema.json: x-message names 'PodSandboxConfg', which is not a": (
        "spec/cni/runtime_config.schema.json", "PodSandboxConfig", "PodSandboxConfg"
    ),
    "spec/cni/runtime_config.schema.json: $defs has no object Arguments, which also of": (
        "spec/cni/runtime_config.schema.json", '"Arguments": {', '"Argument": {'
    ),
    "spec/oci/runtime.schema.json: propertis of Process is no keyword of a JSON Schema": (
        "spec/oci/runtime.schema.json", '"properties": {\n        "terminal"', '"propertis": {"a"'
    ),
    "spec/plan/requests.schema.json: x-mesage of checkpoint_container is no keyword": (
        "spec/plan/requests.schema.json",
        '"x-message": "CheckpointContainerRequest"', '"x-mesage": "CheckpointContainerRequest"',
    ),
    "spec/oci/seccomp.schema.json: propertys is no keyword of a JSON Schema": (
        "spec/oci/seccomp.schema.json", '"properties"', '"propertys"'
    ),
    "spec/plan/requests.schema.json: is not JSON": (
        "spec/plan/requests.schema.json", '"type": "integer"', '"type" "integer"'
    ),
    "spec/plan/requests.schema.json: $ref of stop_container.grace has no effect here": (
        "spec/plan/requests.schema.json", '"type": "integer"', '"$ref": "#/$defs/stop_container"'
    ),
    "spec/older.yaml: ": ("spec/older.yaml", "runtime.v1alpha2:", "\truntime.v1alpha2:"),
}  # fmt: skip


@pytest.mark.parametrize("said", _ALONE)
def test_what_follows_from_a_mistake_is_not_reported(tmp_path: Path, said: str) -> None:
    copy_of_spec(tmp_path)
    _change(tmp_path, *_ALONE[said])
    (fault,) = _faults(tmp_path)
    assert f"{fault.place.file}: {fault.message}".startswith(said)
    assert fault.place.line


@pytest.mark.parametrize(
    "name",
    ["spec/cri/current", "spec/mapping/mount.yaml", "spec/plan/requests.schema.json", _PROTO],
)
def test_a_byte_order_mark_means_nothing(tmp_path: Path, name: str) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    generate.load_project(tmp_path)


_TRANSFORM = "def container_state(*, state: lifecycle.ContainerState)"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (f"@property\n{_TRANSFORM}", "is decorated with property"),
        (_TRANSFORM.replace("*", "*several: int"), "takes *several"),
        (_TRANSFORM.replace(")", ", **named: int)"), "takes **named"),
        (_TRANSFORM.replace("lifecycle.", ""), "neither defines nor imports ContainerState"),
    ],
)
def test_a_transform_that_cannot_be_called_is_named(
    tmp_path: Path, written: str, said: str
) -> None:
    copy_of_spec(tmp_path)
    code = (tmp_path / "runtime").resolve()
    (tmp_path / "runtime").unlink()
    shutil.copytree(code, tmp_path / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    _change(tmp_path, "runtime/transforms/status.py", _TRANSFORM, written)
    (fault,) = _faults(tmp_path)
    assert said in fault.message
    assert fault.place.file == "runtime/transforms/status.py"


def test_a_handler_that_is_named_as_in_rpc_yaml_is_told_its_own_name(tmp_path: Path) -> None:
    copy_of_spec(tmp_path)
    hint = generate.load_project(tmp_path).translation.paths.sources.hint("sandboxes.stop")
    assert hint == "write sandboxes.operations.Sandboxes.stop"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("spec/cri/current", "Is a directory"),
        ("spec/mapping/loop.yaml", "Too many levels of symbolic links"),
        ("spec/cri/9.99.proto", "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_named_once(tmp_path: Path, name: str, said: str) -> None:
    copy_of_spec(tmp_path)
    path = tmp_path / name
    if path.exists():
        _a_folder(path)
    else:
        path.symlink_to(path.name)
    (fault,) = _faults(tmp_path)
    assert (fault.place.file, fault.message) == (name, f"cannot be read: {said}")
