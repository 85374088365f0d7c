"""A pytest session that runs, for each mutant, the tests that reach what it changes.

Everything is imported and collected once. Each mutant gets a process forked from there, in which
the changed code replaces the loaded one, and which ends with the first test that fails twice. The
tables of tests/unit/mapping come first; only mutants that they do not kill are given to the other
tests.

A test does not kill by a call that does not fit any more: whoever changed the mapping would change
the call, too. What is generated, or its digest, is compared by tests of the generator only, which
do not take part.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import math
import os
import re
import shutil
import signal
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.mutation import patch
from tests.mutation.operators import mutants
from tests.mutation.specification import Mutant, SpecError, Specification
from tests.unit.mapping import expected

SECONDS = 180
"""The longest that the tests of one mutant may take; a mutant that hangs them is killed."""
SECONDS_OF_A_TEST = 10
"""How long a test may take, beside ten times what it takes without an alteration; then it hangs,
which counts as a failure."""
_TABLES = "tests/unit/mapping/"
"""The tests that fail for nearly every mutant."""
MISFIT = re.compile(r"TypeError: .*(unexpected keyword argument|missing \d+ required)")
"""How a call fails that does not fit."""
ALIVE = ("survived", "no code")
"""The verdicts on mutants for which no test fails."""
_DATA_OF = {
    "handlers/ignored.py": "runtime/ignored.py",
    "handlers/redacted.py": "runtime/frame.py",
    "provenance.py": "runtime/commands/explain.py",
}
"""Who reads the generated modules that consist of data."""
_OF_WHOLE_MODULES = (
    "test_every_message_with_a_validator_is_expected",
    "test_fields_by_what_happens_to_them",
)
"""Tests of which modules there are, and of those that consist of data; they run no line of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one mutant."""

    mutant: str
    verdict: str
    """``killed`` ``refused`` (by the generator) ``no code`` (nothing generated is different) or
    ``survived``."""
    by: str = ""
    """The test that failed, or what the generator says."""
    seconds: float = 0
    said: str = ""
    """How the test failed."""


@dataclass(slots=True)
class Baseline:
    """What the unaltered tests do."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[patch.Line, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By line: the tests that run it."""
    failed: list[str] = field(default_factory=list)

    def tests_of(self, lines: Iterable[patch.Line]) -> list[str]:
        """The tests that run one of the lines, quick ones first."""
        found: set[str] = set()
        for line in lines:
            found |= self.reached.get(line, set())
        return sorted(found, key=lambda test: (self.seconds[test], test))


class MutationSession:
    """The pytest plugin."""

    def __init__(self, root: Path, workers: int, chosen: str) -> None:
        self._root, self._workers, self._chosen = root, workers, chosen
        self.outcomes: list[Outcome] = []
        self.baseline = Baseline()
        self._folder = Path(tempfile.mkdtemp(prefix="mutation-"))
        self._reports: list[pytest.TestReport] = []

    def pytest_collection(self) -> None:
        settings.register_profile(
            "mutation",
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
        )
        settings.load_profile("mutation")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        try:
            self._run(session)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def _run(self, session: pytest.Session) -> None:
        specification = Specification(self._root)
        before = specification.generated()
        plain = {path: patch.canonical(text) for path, text in before.items()}
        for path, text in plain.items():
            if patch.canonical((self._root / "generated" / path).read_text()) != text:
                raise pytest.UsageError(f"generated/{path} is stale: run cri-codegen generate")
            importlib.import_module(patch.module_name(path))
        wanted = [m for m in mutants(specification) if self._chosen in m.name]
        _say(f"{len(wanted)} mutants")
        tables = [item for item in session.items if item.nodeid.startswith(_TABLES)]
        others = [item for item in session.items if not item.nodeid.startswith(_TABLES)]
        expected.read_all()
        settled: dict[str, Outcome] = {}
        left = wanted
        for items in (tables, others):
            if items and left:
                for outcome in self._round(items, left, specification, before, plain):
                    settled[outcome.mutant] = outcome
            left = [mutant for mutant in left if settled[mutant.name].verdict == "survived"]
        self.outcomes = [settled[mutant.name] for mutant in wanted]

    def _round(
        self,
        items: Sequence[pytest.Item],
        wanted: Sequence[Mutant],
        specification: Specification,
        before: Mapping[str, str],
        plain: Mapping[str, str],
    ) -> Iterator[Outcome]:
        """What becomes of the mutants by these tests; ``plain`` is the canonical text of what is
        generated ``before``."""
        began = time.monotonic()
        self.baseline = Baseline()
        self._measure(items, plain)
        _say(
            f"{len(items)} tests reach {len(self.baseline.reached)} lines of generated/"
            f" ({time.monotonic() - began:.0f} s)"
        )
        if self.baseline.failed:
            raise pytest.UsageError(f"fail without any change: {self.baseline.failed}")
        by_name = {item.nodeid: item for item in items}
        killers: dict[str, list[str]] = defaultdict(list)

        def judge(mutant: Mutant) -> Outcome:
            started = time.monotonic()
            try:
                after = specification.generated(mutant)
            except SpecError as error:
                return Outcome(mutant.name, "refused", str(error.faults[0]))
            changed = {}
            for path in before.keys() | after.keys():
                if before.get(path) != after.get(path):
                    text = patch.canonical(after[path]) if path in after else None
                    if text != plain.get(path):
                        changed[path] = text
            if not changed.keys() - {"provenance.py"}:
                return Outcome(mutant.name, "no code")
            lines = set()
            for path in sorted(changed, key=lambda path: path in plain):  # new modules first
                text = changed[path]
                patch.replace_code(path, compile(text, path, "exec") if text else None)
                if path == "provenance.py":
                    continue
                if path in _DATA_OF:
                    lines |= {line for line in self.baseline.reached if line[0] == _DATA_OF[path]}
                elif path in plain:
                    numbers = patch.changed_lines(plain[path], text or "")
                    lines |= {(path, number) for number in numbers}
            tests = self.baseline.tests_of(lines)
            if changed.keys() - plain.keys() or changed.keys() & _DATA_OF.keys():
                tests += [one for one in by_name if any(name in one for name in _OF_WHOLE_MODULES)]
            first = [test for test in killers[mutant.entry.partition(".")[0]] if test in tests]
            for test in dict.fromkeys([*first, *tests]):
                # twice, as a test about processes and times may fail by chance
                if self._fails(by_name[test]) and self._fails(by_name[test]):
                    return Outcome(
                        mutant.name, "killed", test, time.monotonic() - started, self._said()
                    )
            said = f"{len(tests)} tests reach it"
            return Outcome(mutant.name, "survived", said, time.monotonic() - started)

        gc.collect()
        gc.freeze()  # a collection would copy what the processes share
        began = time.monotonic()
        for number, outcome in enumerate(self._forked(wanted, judge), 1):
            if outcome.verdict == "killed" and outcome.by in by_name:
                known = killers[outcome.mutant.partition(".")[0]]
                if outcome.by in known:
                    known.remove(outcome.by)
                known.insert(0, outcome.by)
                del known[8:]
            if outcome.verdict == "survived":
                _say(f"survived: {outcome.mutant} ({outcome.by}, {outcome.seconds:.0f} s)")
            if number % 100 == 0:
                _say(f"{number} of {len(wanted)}, {time.monotonic() - began:.0f} s")
            yield outcome

    def _fails(self, item: pytest.Item, following: pytest.Item | None = None) -> bool:
        self._reports.clear()
        usual = self.baseline.seconds.get(item.nodeid, SECONDS_OF_A_TEST)
        signal.alarm(SECONDS_OF_A_TEST + math.ceil(10 * usual))
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        signal.alarm(0)
        return any(
            report.failed and not MISFIT.match(_first_line(report)) for report in self._reports
        )

    def _said(self) -> str:
        return next(_first_line(report) for report in self._reports if report.failed)

    def _measure(self, items: Sequence[pytest.Item], plain: Mapping[str, str]) -> None:
        """Run every test once, and note what it reaches."""
        files = sorted({str(item.path) for item in items})
        parts = [set(files[number :: self._workers]) for number in range(self._workers)]

        def measure(part: set[str]) -> dict[str, Any]:
            hits: set[patch.Line] = set()
            for path, text in plain.items():
                patch.observe(patch.module_name(path), path, text, hits.add)
            for path in set(_DATA_OF.values()):
                name = path.removesuffix(".py").replace("/", ".")
                patch.observe(name, path, (self._root / path).read_text(), hits.add)
            found: dict[str, Any] = {}
            mine = [item for item in items if str(item.path) in part]
            for item, following in zip(mine, [*mine[1:], None], strict=True):
                hits.clear()
                started = time.monotonic()
                failed = self._fails(item, following)
                found[item.nodeid] = {
                    "seconds": time.monotonic() - started,
                    "lines": sorted(hits),
                    "failed": (
                        [str(r.longrepr)[-800:] for r in self._reports if r.failed]
                        if failed
                        else []
                    ),
                }
            return found

        for found in self._forked(parts, measure, seconds=3600):
            assert isinstance(found, dict), found
            for test, one in found.items():
                self.baseline.seconds[test] = one["seconds"]
                self.baseline.failed += [f"{test}: {said}" for said in one["failed"]]
                for path, number in one["lines"]:
                    self.baseline.reached[path, number].add(test)

    def _forked(
        self, inputs: Iterable[Any], work: Callable[[Any], Any], seconds: float = SECONDS
    ) -> Iterator[Any]:
        """The results of ``work``, each made in a process of its own, in the order they end."""
        running: dict[int, tuple[Any, float]] = {}
        try:
            yield from self._results(running, iter(inputs), work, seconds)
        finally:  # this process is interrupted
            for child in running:
                _end(child)

    def _results(
        self,
        running: dict[int, tuple[Any, float]],
        waiting: Iterator[Any],
        work: Callable[[Any], Any],
        seconds: float,
    ) -> Iterator[Any]:
        """As ``_forked``; ``running`` has the processes that have not ended, with what they were
        given and until when they may run."""
        more = True
        while more or running:
            while more and len(running) < self._workers:
                try:
                    given = next(waiting)
                except StopIteration:
                    more = False
                    break
                child = os.fork()
                if not child:
                    self._in_child(given, work)
                running[child] = given, time.monotonic() + seconds
            if not running:
                break
            child, _ = os.waitpid(-1, os.WNOHANG)
            if not child:
                time.sleep(0.005)
                for late in [
                    pid for pid, (_, until) in running.items() if until < time.monotonic()
                ]:
                    _end(late)
                continue
            if child not in running:
                continue
            given, _ = running.pop(child)
            _end(child)  # what its tests may have left
            shutil.rmtree(self._folder / str(child), ignore_errors=True)
            failure = self._folder / f"{child}.error"
            if failure.exists():
                raise AssertionError(f"{given}: {failure.read_text()}")
            result = self._folder / f"{child}.json"
            if result.exists():
                data = json.loads(result.read_text())
                result.unlink()
                yield Outcome(**data) if isinstance(given, Mutant) else data
            elif isinstance(given, Mutant):
                yield Outcome(
                    given.name, "killed", "the tests hang, or their process dies", seconds
                )
            else:
                hanging = self._folder / f"{child}.hangs"
                raise AssertionError(hanging.read_text() if hanging.exists() else "a child died")

    def _give_up(self, *_: object) -> None:
        """A test hangs: say where, and end this process."""
        with (self._folder / f"{os.getpid()}.hangs").open("w") as file:
            faulthandler.dump_traceback(file)
        os._exit(0)

    def _in_child(self, given: Any, work: Callable[[Any], Any]) -> None:
        """Do the work, write the result, and end this process."""
        try:
            os.setsid()
            own = self._folder / str(os.getpid())
            own.mkdir()
            signal.signal(signal.SIGALRM, self._give_up)
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(own)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nowhere, descriptor)
            result = work(given)
            data = (
                result
                if isinstance(result, dict)
                else {name: getattr(result, name) for name in Outcome.__dataclass_fields__}
            )
            made = self._folder / f"{os.getpid()}.part"
            made.write_text(json.dumps(data))
            made.rename(made.with_suffix(".json"))
        except BaseException as error:
            text = "".join(traceback.format_exception(error))
            (self._folder / f"{os.getpid()}.error").write_text(text)
        finally:
            os._exit(0)


def _end(child: int) -> None:
    """Kill a child and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _first_line(report: pytest.TestReport) -> str:
    """What was raised, in a line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return (crash.message if crash is not None else str(report.longrepr)).partition("\n")[0][:200]


def _say(line: str) -> None:
    print(line, flush=True)
