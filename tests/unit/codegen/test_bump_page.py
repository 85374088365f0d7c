"""docs/bump.md shows a real bump: its commands are run on the project as it was before 1.36, and
print what the page says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codegen import decided, load, proto_api, stubs
from codegen.__main__ import main
from codegen.load import MappingNode
from codegen.model import snake
from tests.unit.codegen.project import ROOT, copy_of_spec, settings

_PAGE = ROOT / "docs/bump.md"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.M | re.S)
_TOP: tuple[str, ...] = ()
_OLD, _NEW = "1.35", "1.36"
_ANY = "…"
"""A line of the page that stands for any number of lines."""


def _without(text: str, name: str, keys: set[str], path: tuple[str, ...]) -> str:
    """The YAML text without some keys of the mapping at ``path``, with what belongs to them."""
    node = load.at(load.yaml_text(text, name), path)
    assert isinstance(node, MappingNode)
    lines = text.splitlines(keepends=True)
    starts = [key.place.line - 1 for key, _ in node.items()]
    for number in reversed(range(len(starts))):
        key, _ = node.pairs[number]
        if key.value in keys:
            end = starts[number + 1] if number + 1 < len(starts) else len(lines)
            del lines[starts[number] : end]
    return "".join(lines)


def _before_the_bump(root: Path) -> None:
    """Lay out the project as it was with the older version, and the new api.proto beside it."""
    copy_of_spec(root)
    parts = [
        decided.parts(
            proto_api.descriptor(settings().api, v, (ROOT / f"spec/cri/{v}.proto").read_text())
        )
        for v in (_OLD, _NEW)
    ]
    old, new = parts
    for owner, defined in new.items():
        gained = set(defined) - set(old.get(owner, {}))
        path = root / f"spec/mapping/{snake(owner)}.yaml"
        if owner.endswith("Service"):
            path, at = root / "spec/rpc.yaml", _TOP
        elif owner not in old:
            path.unlink()
            continue
        else:
            at = ("fields",)
        if gained and path.exists():
            path.write_text(_without(path.read_text(), path.name, gained, at))
    known = {o: {p: d for p, d in ps.items() if p in old[o]} for o, ps in new.items() if o in old}
    (root / decided.FILE).write_text(decided.text(known, old))
    (root / f"spec/cri/{_NEW}.proto").rename(root / "api.proto")
    (root / "spec/cri/current").write_text(f"{_OLD}\n")


def _commands() -> Iterator[tuple[str, str]]:
    for block in _BLOCK.findall(_PAGE.read_text()):
        command, _, output = block.removeprefix("$ ").partition("\n")
        yield command, output


def _matches(said: str, page: str) -> bool:
    parts = [re.escape(part) for part in re.split(rf"^ *{_ANY}\n", page, flags=re.M)]
    return re.fullmatch(r"(?:.*\n)*?".join(parts), said) is not None


def _as_decided(root: Path) -> None:
    """What the maintainer writes: the entries that the project has today."""
    shutil.rmtree(root / "spec/mapping")
    shutil.copytree(ROOT / "spec/mapping", root / "spec/mapping")
    shutil.copy(ROOT / "spec/rpc.yaml", root / "spec/rpc.yaml")


def test_the_page_shows_what_the_commands_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stubs.current_version(ROOT) == _NEW, "let the page walk through the newest bump"
    _before_the_bump(tmp_path)
    monkeypatch.chdir(tmp_path)
    steps: dict[str, Callable[[Path], object]] = {
        "echo 1.36 > spec/cri/current": lambda root: (root / "spec/cri/current").write_text(
            "1.36\n"
        ),
        "$EDITOR spec/mapping spec/rpc.yaml": _as_decided,
    }
    run = 0
    for command, page in _commands():
        if command in steps:
            steps[command](tmp_path)
            continue
        words = command.split()
        assert words.pop(0) == "cri-codegen"
        main(words)
        told = capsys.readouterr()
        said = "".join(
            f"{line}\n"
            for line in (told.out + told.err).splitlines()
            if not line.startswith("generated/schemas/")
        )
        assert _matches(said, page), f"$ {command}\n{said}"
        run += 1
    assert run > len(steps)
    main(["check"])
    assert "spec/" not in capsys.readouterr().err, "only generated/ is not there"
