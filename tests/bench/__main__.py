"""``nox -s bench``: compares this server with containerd's built-in CRI plugin, on one containerd
package.

Only ratios within one run are meaningful: both run on the same machine, minutes apart, with the
same image, CNI list, runc and client.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from generated.cri import api_pb2
from tests.bench import streaming
from tests.harness import images
from tests.harness.cri import Cri, container_config, pod_config
from tests.harness.node import Containerd, Node, find_containerd
from tests.harness.registry import Registry

IMAGE, PAUSE = "bench.example/busybox:1", "bench.example/pause:1"
REPORTS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
Kind = Literal["ours", "builtin"]
Samples = defaultdict[
    str, list[float]
]  # name of a measure → values, in milliseconds unless it says otherwise

_STARTS = 3  # starts of the server in a round
_PULLS = 10  # images pulled in a round, each with a layer of its own

# measure → (what is compared, the upper limit)
GOALS = {
    "RunPodSandbox": ("ratio", 0.85),
    "cycle": ("ratio", 0.90),
    "ListPodSandbox": ("ours", 2.0),
    "ListContainers": ("ours", 2.0),
    "PodSandboxStatus": ("ours", 2.0),
    "ContainerStatus": ("ours", 2.0),
    "memory, MB": ("ours", 90.0),
    "start of the server": ("ours", 1000.0),
    "exec of true, streamed": ("ratio", 1.0),
    "tty echo of a byte": ("ratio", 1.2),
    "1 GiB of exec stdout": ("ratio", 1 / 0.8),
    "1 GiB through port-forward": ("ratio", 1 / 0.6),
    "memory after 1000 execs, % more": ("ours", 5.0),
}


@contextmanager
def timed(samples: Samples, name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    samples[name].append((time.perf_counter() - started) * 1000)


def machine_cpu() -> float:
    """Milliseconds of CPU that the whole machine has used (all but idle and iowait)."""
    fields = Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields)
    return (user + nice + system + irq + softirq) * 10.0


def start_pod(node: Node, samples: Samples, name: str, *, host: bool = False) -> tuple[str, str]:
    cri = node.cri
    pod = pod_config(name)
    pod.linux.cgroup_parent = node.cgroup_parent
    if host:
        pod.hostname = ""
        pod.linux.security_context.namespace_options.network = api_pb2.NODE
    with timed(samples, "RunPodSandbox" + " (host network)" * host):
        pod_id = cri.run_pod(pod)
    with timed(samples, "CreateContainer"):
        container = cri.create(pod_id, container_config(IMAGE, "sleep", "3600"), pod)
    with timed(samples, "StartContainer"):
        cri.start(container)
    return pod_id, container


def end_pod(cri: Cri, samples: Samples, pod: str, container: str, *, host: bool = False) -> None:
    with timed(samples, "StopContainer"):
        cri.stop(container)
    with timed(samples, "StopPodSandbox" + " (host network)" * host):
        cri.stop_pod(pod)
    with timed(samples, "RemoveContainer"):
        cri.remove(container)
    with timed(samples, "RemovePodSandbox"):
        cri.remove_pod(pod)


def sequential(node: Node, samples: Samples, cycles: int) -> None:
    cri = node.cri
    for number in range(cycles):
        cpu = machine_cpu()
        with timed(samples, "cycle"):
            pod, container = start_pod(node, samples, f"pod-{number}")
            end_pod(cri, samples, pod, container)
        samples["cycle, CPU of the machine"].append(machine_cpu() - cpu)
    for number in range(cycles // 2):
        pod, container = start_pod(node, samples, f"host-{number}", host=True)
        with timed(samples, "ExecSync"):
            cri.exec_sync(container, "true")
        end_pod(cri, samples, pod, container, host=True)


def burst(node: Node, samples: Samples, pods: int) -> list[tuple[str, str]]:
    each: Samples = defaultdict(list)
    with timed(samples, f"burst: {pods} pods up"), ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: start_pod(node, each, f"burst-{n}"), range(pods)))
    samples["burst: RunPodSandbox"] += each["RunPodSandbox"]
    return made


def polling(cri: Cri, samples: Samples, pods: list[tuple[str, str]], rounds: int) -> None:
    """The periodic calls of a kubelet, while ``pods`` run."""
    runtime = cri.runtime
    for number in range(rounds):
        pod, container = pods[number % len(pods)]
        with timed(samples, "ListPodSandbox"):
            runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest())
        with timed(samples, "ListContainers"):
            runtime.ListContainers(api_pb2.ListContainersRequest())
        with timed(samples, "PodSandboxStatus"):
            cri.pod_status(pod)
        with timed(samples, "ContainerStatus"):
            cri.status(container)
    for _ in range(max(rounds // 10, 3)):
        with timed(samples, "ListContainerStats"):
            runtime.ListContainerStats(api_pb2.ListContainerStatsRequest())
        with timed(samples, "ListPodSandboxStats"):
            runtime.ListPodSandboxStats(api_pb2.ListPodSandboxStatsRequest())


def resident_mb(node: Node) -> tuple[float, float]:
    """Resident megabytes of the CRI server (ours: server and log keeper), and of containerd.

    The built-in plugin is part of containerd, so both of its values are of one process.
    """
    ours = containerd = 0.0
    for pid, command in node.processes().items():
        status = Path(f"/proc/{pid}/status").read_text()
        size = next(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")
        )
        if "shim" in command.split()[0]:
            continue
        if "cri-containerd serve" in command or "runtime.logs.keeper" in command:
            ours += size / 1000
        else:
            containerd += size / 1000
    return (ours or containerd), containerd


def one_round(
    kind: Kind, containerd: Containerd, registry: Registry, args: argparse.Namespace
) -> Samples:
    samples: Samples = defaultdict(list)
    node = Node(
        kind=kind,
        containerd=containerd,
        registry_mirrors={"bench.example": registry.url},
        pause_image=PAUSE,
        log_level="info",
        cgroup_parent="cri-bench",  # the built-in plugin's pod stats need one
    )
    with node:
        cri = node.cri
        cri.pull(PAUSE)
        cri.pull(IMAGE)
        for number in range(_PULLS):
            with timed(samples, "PullImage"):
                cri.pull(_pulled(number))
        sequential(node, defaultdict(list), 1)  # the first pod of a node also creates the bridge
        sequential(node, samples, args.cycles)
        streaming.measure(node, samples, IMAGE, args.execs)
        pods = burst(node, samples, args.pods)
        polling(cri, samples, pods, 100)
        server, daemon = resident_mb(node)
        samples["memory, MB"].append(server)
        samples["memory of containerd, MB"].append(daemon)
        ignored: Samples = defaultdict(list)
        with timed(samples, f"burst: {args.pods} pods down"), ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: end_pod(cri, ignored, *pair), pods))
        for _ in range(_STARTS):
            node.stop()
            samples["start of the server"].append(node.start() * 1000)
    return samples


def _pulled(number: int) -> str:
    return f"bench.example/pulled:{number}"


def version_of(containerd: Containerd, program: str) -> str:
    command = containerd.runc if program == "runc" else program
    out = subprocess.run(
        [command, "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=containerd.environment(),
    ).stdout
    return out.split()[2]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def table(results: dict[Kind, Samples]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in results["ours"]:
        ours, builtin = results["ours"][name], results["builtin"][name]
        row: dict[str, object] = {"measure": name}
        for label, values in (("ours", ours), ("builtin", builtin)):
            row[f"{label} p50"] = round(statistics.median(values), 2)
            row[f"{label} p95"] = round(percentile(values, 0.95), 2)
        ratio = statistics.median(ours) / statistics.median(builtin)
        row["ratio"] = round(ratio, 2)
        if name in GOALS:
            what, most = GOALS[name]
            reached = ratio if what == "ratio" else statistics.median(ours)
            row["goal"] = f"{what} ≤ {most:g}: {'met' if reached <= most else 'missed'}"
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, object]], facts: dict[str, str]) -> str:
    columns = ("measure", "ours p50", "ours p95", "builtin p50", "builtin p95", "ratio", "goal")
    lines = [
        f"# Pod cycles on containerd {facts['containerd']}",
        "",
        f"{facts['runc']}, kernel {facts['kernel']}, {facts['rounds']}. Milliseconds unless the"
        " measure says otherwise; the ratio is ours to the built-in plugin, by p50.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" + "|---:" * 5 + "|---|",
    ]
    lines += ["| " + " | ".join(str(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--containerd", default="system", help="system, sid, trixie or a directory")
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--execs", type=int, default=1000, help="commands streamed in a row")
    parser.add_argument("--rounds", type=int, default=2, help="how often each of the two runs")
    args = parser.parse_args()
    try:
        containerd = find_containerd(args.containerd)
    except ValueError as error:
        parser.error(str(error))

    results: dict[Kind, Samples] = {"ours": defaultdict(list), "builtin": defaultdict(list)}
    with tempfile.TemporaryDirectory() as folder, Registry(Path(folder)) as registry:
        files = images.busybox_files()
        push = {"amd64": images.image([images.layer_tar(files)])}
        images.push(registry.url, IMAGE.partition("/")[2], push)
        pause = {"Entrypoint": ["sleep", "2147483647"], "Cmd": []}
        push = {"amd64": images.image([images.layer_tar(files)], pause)}
        images.push(registry.url, PAUSE.partition("/")[2], push)
        for number in range(_PULLS):
            layer = images.layer_tar({**files, "number": str(number).encode()})
            push = {"amd64": images.image([layer])}
            images.push(registry.url, _pulled(number).partition("/")[2], push)
        for number in range(args.rounds):
            for kind in ("builtin", "ours"):
                print(f"round {number + 1}: {kind}", flush=True)
                for name, values in one_round(kind, containerd, registry, args).items():
                    results[kind][name] += values

    facts = {
        "containerd": version_of(containerd, "containerd"),
        "runc": f"runc {version_of(containerd, 'runc')}",
        "kernel": platform.release().partition("-")[0],
        "rounds": f"{args.rounds} rounds of {args.cycles} cycles,"
        f" burst of {args.pods} at concurrency 8",
    }
    rows = table(results)
    report = markdown(rows, facts)
    print(report)
    REPORTS.mkdir(parents=True, exist_ok=True)
    name = f"containerd-{containerd.name}"
    (REPORTS / f"{name}.md").write_text(report)
    data = {"facts": facts, "rows": rows, "samples": results}
    (REPORTS / f"{name}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
