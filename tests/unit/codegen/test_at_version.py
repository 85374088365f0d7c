"""The generated package of every pinned version: it is imported, and translates a pod's requests.

Each version runs in a process of its own, with only its package and the hand-written code on
``sys.path``.
"""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codegen import __main__ as cli
from codegen import generate, proto_api, write
from tests.unit.codegen.project import ROOT, project

_VERSIONS = list(proto_api.pinned(ROOT))
_OLDER = _VERSIONS[-2]
_PROGRAM = """
import importlib, json, sys
from pathlib import Path
root = Path(sys.argv[1])
sys.path[:] = [str(root), *(p for p in sys.path if p and Path(p) != Path(sys.argv[2]))]
names = sorted(
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for path in (root / "generated").rglob("*.py")
)
for name in names:
    importlib.import_module(name)
assert Path(sys.modules["generated"].__file__).parent == root / "generated"

from generated import plans
from generated.cri import api_pb2
from generated.items import key_value
from generated.oci import linux_container_resources, types
from generated.validators import container_config
from runtime.transforms import facts

spec = types.Spec()
asked = api_pb2.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=1 << 30)
linux_container_resources.apply(asked, spec, host=facts.Host(hostname="node"))
is_text = api_pb2.KeyValue.DESCRIPTOR.fields_by_name["value"].type == 9
variable = key_value.item(api_pb2.KeyValue(key="A", value="1" if is_text else b"1"))
wrong = api_pb2.ContainerConfig(
    metadata=api_pb2.ContainerMetadata(name="c"),
    image=api_pb2.ImageSpec(image="busybox"),
    mounts=[api_pb2.Mount(container_path="/a\\0b")],
)
auth = api_pb2.AuthConfig(username="u", password="hidden")
pulled = plans.plan_pull_image(api_pb2.PullImageRequest(auth=auth))
found = {
    "shares": spec.linux.resources.cpu.shares,
    "memory": spec.linux.resources.memory.limit,
    "variable": variable,
    "violations": [v.field for v in container_config.check(wrong)],
    "pulled": [pulled.registry_user, pulled.registry_secret, "hidden" in repr(pulled)],
}
json.dump(found, sys.stdout)
"""


def _cases() -> list[str]:
    """The oldest and the last but one, or all if the environment says so."""
    return _VERSIONS if os.environ.get("CRI_TEST_VERSIONS") == "all" else [_VERSIONS[0], _OLDER]


def _run(folder: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("version", _cases())
def test_the_package_of_a_pinned_version_is_imported_and_translates(
    version: str, tmp_path: Path
) -> None:
    files = generate.outputs(generate.at(project(), version))
    write.put(tmp_path / "generated", files, generate.MANIFEST, "a generated package")
    (tmp_path / "runtime").symlink_to(ROOT / "runtime")
    assert _run(tmp_path) == {
        "shares": 512,
        "memory": 1 << 30,
        "variable": "A=1",
        "violations": ["mounts[0].container_path"],
        "pulled": ["u", "hidden", False],
    }


def test_only_what_the_older_version_lacks_is_left_out() -> None:
    assert generate.at(project(), _VERSIONS[-1]) is project()
    now, before = (generate.outputs(generate.at(project(), v)) for v in ("1.36", "1.35"))
    lost = now.keys() - before.keys()
    assert {name for name in lost if not name.startswith("validators/stream_")} == set()
    translating = ("filters/", "items/", "oci/", "plans", "statuses/", "validators/")
    changed = {
        name: [
            line
            for line in difflib.ndiff(now[name].split("\n"), before[name].split("\n"))
            if line.startswith(("- ", "+ "))
        ]
        for name in before
        if name.startswith(translating) and now[name] != before[name]
    }
    source = "server_features.user_namespaces_host_network"
    assert changed == {
        "statuses/runtime_features.py": [
            f"-     # user_namespaces_host_network <- {source}",
            f"-     out.user_namespaces_host_network = {source}",
        ]
    }


def test_a_function_gets_the_value_of_an_unset_field_for_one_that_the_version_lacks() -> None:
    mount = generate.outputs(generate.at(project(), "1.25"))["items/mount.py"]
    assert "recursive_read_only=False," in mount
    assert "uid_map=requested_mounts.id_map(mappings=())," in mount
    assert "mounts.uidMappings" not in mount


def test_the_option_is_also_named_after_the_api(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "generated"
    assert cli.main(["--root", str(ROOT), "generate", "--cri", "1.30", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("CRI 1.30: ")
    first = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert json.loads(first[out / generate.MANIFEST])["api"] == "1.30"
    assert cli.main(["--root", str(ROOT), "generate", "--api=1.30", "--out", str(out)]) == 0
    assert first == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--api", "1.30"], "--api: is generated beside the current version"),
        (["--cri", "1.24", "--out", "new"], "--cri: '1.24' is no pinned version of the CRI up to"),
        (["--cri", "../1.30", "--out", "new"], "--cri: '../1.30' is no pinned version"),
        (["--cri", "1.24"], "--cri: is generated beside the current version"),
        (["--out", "held"], "held: holds something other than a generated package"),
        (["--out", "held/file"], "held/file: is not a folder"),
        (["--out", f"{ROOT}/generated/x"], "generated/x: is generated/ itself, or in it"),
        (["--out", f"{ROOT}/generated"], "generated: is generated/ itself, or in it"),
    ],
)
def test_what_cannot_be_written_is_refused(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held/file").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["--root", str(ROOT), "generate", *words]) == 1
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["held", "file"]
