"""``nox -s conformance``: runs critest of cri-tools, the standard tests, on this server.

critest pulls images from public registries. On a machine without access to them,
CRI_TEST_HOSTS_TOML names a folder of ``hosts.toml`` files that redirect these pulls.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.harness.node import Node, find_containerd

EXPECTED = Path(__file__).parent / "expected_failures.yaml"
STREAMING = r"\[k8s\.io\] Streaming"
# uses the digest of a published image, which a registry with substitutes cannot have
PUBLISHED = "public image with digest should be pulled and removed"


def name_of(spec: dict[str, Any]) -> str:
    return " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])


def critest_flags(args: argparse.Namespace, seed: int) -> list[str]:
    """How our flags are passed to critest."""
    # the seed alone orders the groups; with randomize-all it orders the specs as well
    flags = [f"-ginkgo.seed={seed}", "-ginkgo.randomize-all"]
    if args.websocket:
        flags += [f"-websocket-{way}" for way in ("exec", "attach", "portforward")]
    return flags


def shares(specs: Sequence[dict[str, Any]], count: int, seed: int) -> list[str]:
    """Divide the specs at random into ``count`` patterns of about the same number of specs.

    critest's own -parallel needs the command ginkgo. The specs of one group stay together, because
    they may share a pod and depend on their order.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for spec in specs:
        groups[" ".join(spec["ContainerHierarchyTexts"][:2])].append(name_of(spec))
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    filled: list[list[str]] = [[] for _ in range(count)]
    for group in sorted(order, key=lambda group: -len(groups[group])):
        min(filled, key=len).extend(groups[group])
    # the matched text begins with the name of the suite
    return [f"(?:^| )(?:{'|'.join(map(_quoted, share))})$" for share in filled if share]


def _quoted(text: str) -> str:
    """Like ``re.escape``, which also escapes spaces; Go's expressions do not support that."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def start(node: Node, report: Path, flags: list[str]) -> subprocess.Popen[bytes]:
    """A running critest that writes its report."""
    endpoint = f"unix://{node.socket}"
    command = [
        *("critest", "-runtime-endpoint", endpoint, "-ginkgo.no-color", "-ginkgo.timeout=30m"),
        *(f"-ginkgo.json-report={report}", *flags),
    ]
    report.unlink(missing_ok=True)
    with report.with_suffix(".log").open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, cwd=report.parent)


def specs_in(report: Path) -> list[dict[str, Any]]:
    """The specs of a report that were selected, or that skip themselves."""
    if not report.exists():
        sys.exit(f"critest wrote no report:\n{report.with_suffix('.log').read_text()[-3000:]}")
    (suite,) = json.loads(report.read_text())
    return [spec for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]


def run(node: Node, reports: Path, flags: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """The reports of all specs, run by ``count`` critests in parallel."""
    if count == 1:
        started = {reports / "report.json": start(node, reports / "report.json", flags)}
    else:
        listed = reports / "listed.json"
        start(node, listed, [*flags, "-ginkgo.dry-run"]).wait()
        started = {}
        for number, pattern in enumerate(shares(specs_in(listed), count, seed)):
            report = reports / f"report-{number}.json"
            started[report] = start(node, report, [*flags, f"-ginkgo.focus={pattern}"])
    for process in started.values():
        process.wait()
    found: dict[str, dict[str, Any]] = {}
    for report in started:
        for spec in specs_in(report):
            # specs that another critest ran are skipped here
            if spec["State"] != "skipped" or name_of(spec) not in found:
                found[name_of(spec)] = spec
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("--containerd", default="system", help="system, sid, trixie or a directory")
    parser.add_argument("--streaming", action="store_true", help="run the streaming specs too")
    parser.add_argument(
        "--websocket", action="store_true", help="streaming specs over WebSocket instead of SPDY"
    )
    parser.add_argument("--parallel", type=int, default=1, help="how many critests run at a time")
    parser.add_argument("--seed", type=int, help="of the order of the specs (default: random)")
    parser.add_argument("--kind", default="ours", choices=("ours", "builtin"))
    args, flags = parser.parse_known_args()
    if not shutil.which("critest"):
        print("critest is not on PATH (kubernetes-sigs/cri-tools): nothing was run")
        return 0
    try:
        containerd = find_containerd(args.containerd)
    except ValueError as error:
        parser.error(str(error))
    seed = random.randrange(1, 1 << 31) if args.seed is None else args.seed
    hosts = os.environ.get("CRI_TEST_HOSTS_TOML")
    skip = [] if args.streaming else [STREAMING]
    skip += [PUBLISHED] if hosts else []
    with Node(
        kind=args.kind,
        containerd=containerd,
        hosts_toml=Path(hosts) if hosts else None,
        pause_image="registry.k8s.io/pause:3.10" if args.kind == "builtin" else None,
    ) as node:
        reports = Path("build/conformance", f"{containerd.name}-{args.kind}").resolve()
        reports.mkdir(parents=True, exist_ok=True)
        flags = [
            *(f"-ginkgo.skip={pattern}" for pattern in skip),
            *critest_flags(args, seed),
            *flags,
        ]
        specs = run(node, reports, flags, args.parallel, seed)
        shutil.copy(node.directory / "server.log", reports / "server.log")
    by_state: dict[str, list[str]] = {}
    for spec in specs:
        state = spec["State"] if spec["State"] in ("passed", "skipped") else "failed"
        by_state.setdefault(state, []).append(name_of(spec))
        if state == "failed":
            print(f"FAILED {name_of(spec)}\n    {spec.get('Failure', {}).get('Message', '')}")
    expected = yaml.safe_load(EXPECTED.read_text())
    failed = set(by_state.get("failed", []))
    for name in sorted(failed & expected.keys()):
        print(f"expected: {name}: {expected[name]}")
    for name in sorted(expected.keys() - failed):
        print(f"no longer fails, remove it from {EXPECTED.name}: {name}")
    passed, skipped = len(by_state.get("passed", [])), len(by_state.get("skipped", []))
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped, seed {seed}")
    return 0 if failed == set(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
