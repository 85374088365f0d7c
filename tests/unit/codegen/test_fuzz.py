"""Damaged specifications: every run ends with success or with located faults, never a traceback.

Each example damages one to three files of spec/, as bytes or in their structure, and loads the
project as ``check`` does. ``CRI_TEST_FUZZ=N`` runs N examples, from the seed ``CRI_TEST_SEED``.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from codegen import generate
from codegen.__main__ import main
from codegen.errors import SpecError
from tests.unit.codegen.project import ROOT, copy_of_spec

_EXAMPLES = int(os.environ.get("CRI_TEST_FUZZ", "6"))
_SEED = int(os.environ.get("CRI_TEST_SEED", "1"))
_FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "spec").rglob("*")
    if path.is_file() and path.suffix in (".yaml", ".json", ".proto", ".profile", "")
)
_STRUCTURED = [name for name in _FILES if name.endswith((".yaml", ".json"))]
_ODD_BYTES = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\t", b"\r", b"\xe2\x80\xa8", b"{", b"]", b"'", b'"', b"&a",
    b"*a", b"!!x ", b"---\n", b"<<: ", b": ", b"- ", b"#", b"%", b"\n\n", b"9" * 40, b"[" * 2000,
)  # fmt: skip
_ODD_VALUES: tuple[object, ...] = (
    None, True, 0, -1, 1.5, 10**40, "", " ", "x", "a.b", ".", "..", "a.b.c[d]", "[", "x[", "x as y",
    "fields", "from", "class", "None", "rpc.", "rpc.Nothing", "plan.", "cni.", "é☃", "x" * 5000,
    [], {}, [None], [[]], {"": None}, {"a": {"b": []}}, {"required": True}, ["same", "same"],
)  # fmt: skip
_FAULT = re.compile(r"^[^\n:]+(:\d+:\d+)?: \S")


def _bytes(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(chance.randint(1, 3)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice((0, 1, 3, 40, 400)))
        match chance.randrange(4):
            case 0:
                data[start:end] = b""
            case 1:
                data[start:start] = chance.choice(_ODD_BYTES)
            case 2:
                data[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
            case 3:
                data[start:start] = data[start:end]
    file.write_bytes(data)


def _lines(file: Path, chance: random.Random) -> None:
    lines = file.read_bytes().splitlines(keepends=True) or [b""]
    one, other = (chance.randrange(len(lines)) for _ in range(2))
    match chance.randrange(4):
        case 0:
            del lines[one]
        case 1:
            lines.insert(one, lines[other])
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case 3:
            lines[one] = chance.choice((b"  ", b"", b" ")) + lines[one].lstrip()
    file.write_bytes(b"".join(lines))


def _structure(file: Path, chance: random.Random) -> None:
    text = file.read_text()
    whole = json.loads(text) if file.suffix == ".json" else yaml.load(text, yaml.BaseLoader)
    node = whole
    for _ in range(chance.randint(1, 6)):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = chance.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.8:
            node = node[key]
            continue
        match chance.randrange(4):
            case 0:
                del node[key]
            case 1:
                node[key] = chance.choice(_ODD_VALUES)
            case 2 if isinstance(node, dict):
                node[str(chance.choice(_ODD_VALUES))] = node.pop(key)
            case _ if isinstance(node[key], str) and node[key]:
                at = chance.randrange(len(node[key]))
                node[key] = node[key][:at] + chance.choice(".[]: _Aé") + node[key][at + 1 :]
            case _:
                node[key] = [node[key]]
        break
    written = (
        json.dumps(whole) if file.suffix == ".json" else yaml.safe_dump(whole, sort_keys=False)
    )
    file.write_text(written)


def _whole(file: Path, chance: random.Random) -> None:
    match chance.randrange(5):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(b"")
        case 2:
            file.rename(file.with_name(f"x_{file.name}"))
        case 3:
            other = ROOT / chance.choice(_FILES)
            file.write_bytes(other.read_bytes())
        case 4:
            file.unlink()
            file.mkdir()


_DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (_bytes, _lines, _structure, _whole)


def _damage(root: Path, chance: random.Random) -> list[str]:
    told = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        how = chance.choices(_DAMAGES, (3, 3, 6, 1))[0]
        name = chance.choice(_STRUCTURED if how is _structure else _FILES)
        if (root / name).is_file():
            told.append(f"{how.__name__} {name}")
            try:
                how(root / name, chance)
            except (ValueError, yaml.YAMLError, AttributeError, TypeError):  # damaged before
                _bytes(root / name, chance)
    return told


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damaged")
    copy_of_spec(root)
    return root


@pytest.mark.parametrize("number", range(_EXAMPLES))
def test_a_damaged_specification_is_loaded_or_refused_in_words(number: int, damaged: Path) -> None:
    chance = random.Random(f"{_SEED} {number}")
    shutil.rmtree(damaged / "spec")
    shutil.copytree(ROOT / "spec", damaged / "spec")
    told = _damage(damaged, chance)
    try:
        found = generate.load_project(damaged)
        generate.unformatted(found)
    except SpecError as error:
        faults = error.faults
        assert faults, told
        for fault in faults:
            assert _FAULT.match(str(fault)), (told, str(fault))
    except Exception as error:
        raise AssertionError(f"example {number} of seed {_SEED}: {', '.join(told)}") from error


def test_the_command_says_so_too(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(damaged / "spec")
    shutil.copytree(ROOT / "spec", damaged / "spec")
    (damaged / "spec/mapping/mount.yaml").write_bytes(b"\xff\x00")
    assert main(["--root", str(damaged), "check"]) == 1
    assert capsys.readouterr().err.startswith("spec/mapping/mount.yaml")
