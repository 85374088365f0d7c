"""``nox -s mutation [-- WORDS]``: alter each entry of the mapping; a fast test must fail each time.

With WORDS, only the mutants whose name contains them. ``excused.yaml`` names the survivors that no
test can kill, each with the reason; it must not name any other.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from tests.mutation.session import ALIVE, MutationSession, Outcome

_ROOT = Path(__file__).parents[2]
_EXCUSED = Path(__file__).with_name("excused.yaml")
_TESTS = ("tests/unit", "tests/property", "tests/golden")
_OPTIONS = ("-q", "-s", "--tb=native", "-p", "no:cacheprovider", "--ignore=tests/unit/codegen")
"""The tests of the generator never reach what is generated from the real specification."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("words", nargs="?", default="", help="part of the names of the mutants")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--log", type=Path, help="write every mutant and what killed it")
    parser.add_argument("--tests", nargs="*", default=_TESTS)
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    session = MutationSession(_ROOT, arguments.workers, arguments.words)
    code = pytest.main([*_OPTIONS, *arguments.tests], plugins=[session])
    if code:
        return int(code)
    if arguments.log:
        arguments.log.write_text("".join(map(_line, session.outcomes)))
    excused = excuses()
    faults = judged(session.outcomes, excused, whole=not arguments.words)
    print("\n".join(faults))
    print(summary(session.outcomes, excused), f"in {(time.monotonic() - began) / 60:.1f} min")
    return 1 if faults else 0


def excuses() -> dict[str, str]:
    """{mutant: why no test can notice it}."""
    listed = yaml.safe_load(_EXCUSED.read_text())
    return {mutant: one["why"] for one in listed for mutant in one["mutants"]}


def judged(outcomes: Sequence[Outcome], excused: Mapping[str, str], *, whole: bool) -> list[str]:
    """What is wrong with the outcomes. Of the ``whole`` mapping, also the excuses that are not
    needed."""
    alive = {one.mutant for one in outcomes if one.verdict in ALIVE}
    faults = [f"no fast test fails: {name}" for name in sorted(alive - excused.keys())]
    if whole:
        unneeded = sorted(excused.keys() - alive)
        faults += [f"excused.yaml need not excuse: {name}" for name in unneeded]
    return faults


def summary(outcomes: Sequence[Outcome], excused: Mapping[str, str]) -> str:
    """The outcomes in numbers; excused survivors do not count as mutants."""
    counts = Counter(
        "excused" if one.verdict in ALIVE and one.mutant in excused else one.verdict
        for one in outcomes
    )
    killed = counts["killed"] + counts["refused"]
    by_tests = f"{counts['killed']} by tests, {counts['refused']} by the generator"
    whole = len(outcomes) - counts["excused"]
    return f"{whole} mutants, {killed} killed ({by_tests}); {counts['excused']} excused;"


def _line(one: Outcome) -> str:
    return f"{one.verdict}\t{one.seconds:.1f}\t{one.mutant}\t{one.by}\t{one.said!r}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
