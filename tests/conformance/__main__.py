"""``nox -s conformance``: the field's own tests (critest of cri-tools) on this server.

critest pulls its images from the registries that it names. A machine that reaches none of them can
send these pulls elsewhere: CRI_TEST_HOSTS_TOML names a folder of ``hosts.toml`` files.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.harness.node import Node, find_containerd

EXPECTED = Path(__file__).parent / "expected_failures.yaml"
STREAMING = r"\[k8s\.io\] Streaming"
# names a digest of an image as published: a registry with stand-ins cannot have it
PUBLISHED = "public image with digest should be pulled and removed"


def name_of(spec: dict[str, Any]) -> str:
    return " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]])


def critest_flags(args: argparse.Namespace) -> list[str]:
    """How critest is told what our own flags say."""
    flags = []
    if args.seed is not None:
        # the seed alone orders the groups; with this it orders the specs as well
        flags += [f"-ginkgo.seed={args.seed}", "-ginkgo.randomize-all"]
    if args.parallel > 1:
        flags.append(f"-parallel={args.parallel}")
    if args.websocket:
        flags += [f"-websocket-{way}" for way in ("exec", "attach", "portforward")]
    return flags


def run(node: Node, report: Path, skip: list[str], flags: list[str]) -> list[dict[str, Any]]:
    """The spec reports of one run of critest."""
    endpoint = f"unix://{node.socket}"
    command = [
        *("critest", "-runtime-endpoint", endpoint, "-ginkgo.no-color", "-ginkgo.timeout=30m"),
        *(f"-ginkgo.json-report={report}", *(f"-ginkgo.skip={pattern}" for pattern in skip)),
        *flags,
    ]
    log = report.with_suffix(".log")
    with log.open("wb") as output:
        subprocess.run(command, stdout=output, stderr=output, cwd=report.parent, check=False)
    if not report.exists():
        sys.exit(f"critest wrote no report:\n{log.read_text()[-3000:]}")
    (suite,) = json.loads(report.read_text())
    return [spec for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("--containerd", default="system", help="system, sid, trixie or a directory")
    parser.add_argument("--streaming", action="store_true", help="run the streaming specs too")
    parser.add_argument(
        "--websocket", action="store_true", help="streaming specs over WebSocket instead of SPDY"
    )
    parser.add_argument("--parallel", type=int, default=1, help="how many specs run at a time")
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
    hosts = os.environ.get("CRI_TEST_HOSTS_TOML")
    skip = [] if args.streaming else [STREAMING]
    skip += [PUBLISHED] if hosts else []
    with Node(
        kind=args.kind,
        containerd=containerd,
        hosts_toml=Path(hosts) if hosts else None,
        pause_image="registry.k8s.io/pause:3.10" if args.kind == "builtin" else None,
    ) as node:
        reports = Path("build/conformance").resolve()
        reports.mkdir(parents=True, exist_ok=True)
        report = reports / f"{containerd.name}-{args.kind}.json"
        specs = run(node, report, skip, [*critest_flags(args), *flags])
        shutil.copy(node.directory / "server.log", reports / f"{containerd.name}-server.log")
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
    (suite,) = json.loads(report.read_text())
    seed = suite["SuiteConfig"]["RandomSeed"]
    print(f"{passed} passed, {len(failed)} failed, {skipped} skipped, seed {seed}")
    return 0 if failed == set(expected) else 1


if __name__ == "__main__":
    sys.exit(main())
