"""Rewrite what the golden cases expect to what the generator does now, then show the git diff.

Only the keys ``python`` and ``error`` are rewritten; ``python`` keeps the files that the case names
(all of them when it names none). Never run in CI: the diff is for a person to read.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from tests.golden.case import CASES, lay_out, load, outcome, without_header

_EXPECTED = re.compile(r"^(python|error):.*?(?=^\w|\Z)", re.M | re.S)


def main(names: list[str]) -> None:
    for path in sorted(CASES.glob("*.yaml")):
        if names and path.stem not in names:
            continue
        case = load(path)
        with tempfile.TemporaryDirectory() as folder:
            lay_out(case, Path(folder))
            files, error = outcome(Path(folder))
        kept = _EXPECTED.sub("", path.read_text()).rstrip("\n")
        if error is not None:
            expected = f"error: |\n{textwrap.indent(error, '  ')}"
        else:
            chosen = {n: t for n, t in files.items() if n in (case.python or files)}
            blocks = (
                f"  {name}: |\n{textwrap.indent(without_header(text), '    ')}"
                for name, text in chosen.items()
            )
            expected = "python:\n" + "".join(blocks)
        path.write_text(f"{kept}\n{expected}")
    subprocess.run(["git", "--no-pager", "diff", "--", str(CASES)], check=False)


if __name__ == "__main__":
    main(sys.argv[1:])
