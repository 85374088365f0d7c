"""``nox -s corpus -- [REVISION]``: what a change makes of real requests.

Builds every request of the corpus at a git revision (default: ``HEAD``) and in the working tree,
and shows the targets whose values differ, by the entry of the mapping that writes them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from generated import provenance
from tests.corpus.results import Values

PROJECT = Path(__file__).parents[2]
_SHOWN = 3
"""How many requests are shown for each entry."""
_ABSENT = object()
_KEY = re.compile(r"\[[^\]]*\]")
_LAST = re.compile(r"(\.?[^.\[\]]+|\[[^\]]*\])$")

Results = Mapping[str, Values]


def at(root: Path) -> Results:
    """The results with the code of a folder."""
    command = [sys.executable, "-m", "tests.corpus.results"]
    made = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{root}: {made.stderr.strip()[-2000:]}")
    found: Results = json.loads(made.stdout)
    return found


def at_revision(revision: str) -> Results:
    """The results with the code of a git revision, for the requests of the working tree."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        archive = subprocess.run(
            ["git", "-C", str(PROJECT), "archive", revision], capture_output=True, check=False
        )
        if archive.returncode:
            raise SystemExit(archive.stderr.decode().strip())
        subprocess.run(["tar", "-xC", folder], input=archive.stdout, check=True)
        shutil.copytree(PROJECT / "tests" / "corpus", root / "tests" / "corpus", dirs_exist_ok=True)
        return at(root)


def differences(before: Results, after: Results) -> Iterator[tuple[str, str, str]]:
    """Request, target and ``old → new`` of every difference."""
    for request, now in after.items():
        old = before.get(request, {})
        for target in sorted({*old, *now}):
            was, became = old.get(target, _ABSENT), now.get(target, _ABSENT)
            if was != became:
                yield request, target, f"{_shown(was)} → {_shown(became)}"


def entries(target: str) -> str:
    """The entries that write a target: its own, else those of the list or map that contains it."""
    path = target
    while path:
        for known in (path, _KEY.sub("[]", path)):
            if known in provenance.TARGETS:
                written = provenance.TARGETS[known]
                return ", ".join(f"{entry.field} ({entry.file})" for entry in written)
        path = _LAST.sub("", path)
    return "no entry: a default, or hand-written code"


def report(before: Results, after: Results) -> str:
    """The differences as Markdown, by entry."""
    by_entry: defaultdict[str, list[str]] = defaultdict(list)
    for request, target, change in differences(before, after):
        by_entry[entries(target)].append(f"- `{request}` {target}: {change}")
    lines = []
    for entry, changes in sorted(by_entry.items()):
        lines += ["", f"### {entry}", "", *changes[:_SHOWN]]
        lines += [f"- … and {len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []
    changed = {request for request, *_ in differences(before, after)}
    head = f"{len(after)} requests, {len(changed)} with another result"
    return "\n".join([head, *lines])


def _shown(value: object) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False)


def main(arguments: list[str]) -> int:
    revision: Any = arguments[0] if arguments else "HEAD"
    print(report(at_revision(revision), at(PROJECT)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
