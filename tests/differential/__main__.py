"""``nox -s differential``: the same requests to this server and to the built-in plugin.

Cases are made at random from a seed, which is printed. Every difference must be one of
``known_differences.yaml``; any other is printed with the smallest request found that shows it. The
example of each known difference is a case too: an entry that no longer differs fails.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.harness.node import find_containerd, version_of
from tests.harness.registry import Registry

from . import known, requests, shrink
from .compare import Difference
from .pair import Pair, push_images

Steps = tuple[Message, ...]
_TRIES = 40  # smaller cases that are tried for one difference
_SHOWN = 5  # differences of one group


@dataclass
class Run:
    """The cases so far, and what they showed."""

    pair: Pair
    entries: list[known.Known]
    cases: Counter[str] = field(default_factory=Counter)
    found: dict[str, tuple[Steps, list[Difference]]] = field(default_factory=dict)
    """Group of differences → its smallest case as drawn, and all its unexplained differences."""
    explained: Counter[str] = field(default_factory=Counter)

    def case(self, kind: str, steps: Steps) -> None:
        self.cases[kind] += 1
        every = self.pair.differences(steps)
        left = known.unexplained(every, steps, self.entries)
        self.explained[kind] += len(every) - len(left)
        for one in left:
            before = self.found.get(one.group)
            if before is None or _size(steps) < _size(before[0]):
                self.found[one.group] = (steps, left)

    def smallest(self, group: str, until: float) -> tuple[Steps, list[Difference]]:
        """A smaller case with a difference of the group, searched for until that time."""
        steps, left = self.found[group]

        def still(smaller: Steps) -> bool:
            nonlocal left
            if time.monotonic() > until:
                return False
            now = known.unexplained(self.pair.differences(smaller), smaller, self.entries)
            if group not in {one.group for one in now}:
                return False
            left = now
            return True

        steps = shrink.shrunk(steps, still, _TRIES)
        return steps, [one for one in left if one.group == group]

    def no_longer_differ(self, entries: Sequence[known.Known]) -> Iterator[known.Known]:
        """The entries whose example does not show them."""
        shown: dict[str, list[Difference]] = {}
        for entry in entries:
            example = "\n".join(map(known.printed, entry.example))
            if example not in shown:
                shown[example] = self.pair.differences(entry.example)
            # a second time, because some values are measured only now and then
            for every in (shown[example], None):
                found = self.pair.differences(entry.example) if every is None else every
                if any(entry.explains(one, entry.example) for one in found):
                    break
            else:
                yield entry


def _size(steps: Steps) -> int:
    return sum(step.ByteSize() for step in steps)


def perform(run: Run, kind: str, count: int, seeded: int) -> None:
    strategy, _ = requests.KINDS[kind]

    @seed(seeded)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(steps: Steps) -> None:
        run.case(kind, steps)

    each()


def main() -> int:
    parser = argparse.ArgumentParser(prog="differential", description=__doc__)
    parser.add_argument("--containerd", default="sid", help="system, sid, trixie or a directory")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="of the requests (default: random)")
    parser.add_argument("--only", choices=requests.KINDS, action="append", help="kinds of cases")
    parser.add_argument(
        "--shrink", type=int, default=60, metavar="SECONDS", help="time to find smaller requests"
    )
    args = parser.parse_args()
    try:
        containerd = find_containerd(args.containerd)
    except ValueError as error:
        parser.error(str(error))
    seeded = random.randrange(1, 1 << 31) if args.seed is None else args.seed
    version = version_of(containerd)
    entries = [entry for entry in known.load() if entry.applies_to(version)]
    kinds = args.only or list(requests.KINDS)
    shares = sum(requests.KINDS[kind][1] for kind in kinds)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the nodes are removed
    print(f"containerd {version}, seed {seeded}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Registry(Path(folder)) as registry:
        push_images(registry)
        with Pair(containerd, registry.url) as pair:
            run = Run(pair, entries)
            stale = [] if args.only else list(run.no_longer_differ(entries))
            for kind in kinds:
                before = time.monotonic()
                perform(run, kind, -(-args.cases * requests.KINDS[kind][1] // shares), seeded)
                seconds = time.monotonic() - before
                print(f"{kind}: {run.cases[kind]} cases, {seconds:.0f} s", flush=True)
            until = time.monotonic() + args.shrink
            for group in sorted(run.found):
                steps, left = run.smallest(group, until)
                print(f"\nDIFFERS {group}")
                print("\n".join(f"    {one}" for one in left[:_SHOWN]))
                print("\n".join(f"    {known.printed(step)}" for step in steps), flush=True)
    for entry in stale:
        print(f"no longer differs, remove it from {known.FILE.name}: {', '.join(entry.paths)}")
    cases = sum(run.cases.values())
    print(
        f"{cases} cases, {len(run.found)} unexplained differences, {len(entries)} known ones"
        f" ({sum(run.explained.values())} times), {len(stale)} of them no longer differ,"
        f" containerd {version}, seed {seeded}, {time.monotonic() - started:.0f} s"
    )
    return 1 if run.found or stale else 0


if __name__ == "__main__":
    sys.exit(main())
