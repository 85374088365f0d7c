"""``cri-containerd explain``: which mapping entries produced a container's OCI values.

Values come from the spec stored in containerd, plan values (``plan.…``) are computed from the
stored config, and the reasons come from the mapping (generated/provenance.py).
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from grpc import aio

from generated import cni
from generated.containerd import containers_pb2
from generated.plans import plan_container, plan_sandbox
from generated.provenance import TARGETS, Entry
from runtime.config.tables import Config, ConfigError
from runtime.containerd.client import Containerd
from runtime.store import records
from runtime.transforms import labels

_WIDTH: Final = 96
_ABSENT: Final = object()
_EACH: Final = "[]"
_CONFIG_OF: Final = {
    labels.CONTAINER: "ContainerConfig",
    labels.SANDBOX: "PodSandboxConfig",
}
_EXTENSION_OF: Final = {
    labels.CONTAINER: records.CONTAINER_EXTENSION,
    labels.SANDBOX: records.SANDBOX_EXTENSION,
}
_DEFAULTS_OF: Final = {
    labels.CONTAINER: "spec/oci/default_container.json",
    labels.SANDBOX: "spec/oci/default_sandbox.json",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One target of the OCI spec, its value, and the entries that decide it."""

    target: str
    value: object
    entries: tuple[Entry, ...]

    def lines(self) -> Iterator[str]:
        """Formatted for people; the reason is wrapped."""
        if self.value is not _ABSENT:
            shown = json.dumps(self.value, ensure_ascii=False)
        elif self.target.startswith("plan."):  # it depends on the node or the image
            shown = "(decided during creation, not saved)"
        else:
            shown = "(absent)"
        yield textwrap.shorten(f"{self.target} = {shown}", 4 * _WIDTH, placeholder=" …")
        for entry in self.entries:
            how = f"{entry.by}({', '.join(entry.inputs)})" if entry.by else entry.fate
            when = "" if entry.when == "always" else f", when {entry.when}"
            yield f"    {entry.field}: {how}{when}"
            yield textwrap.fill(
                f"{entry.why} [{entry.file}]",
                _WIDTH,
                initial_indent=" " * 8,
                subsequent_indent=" " * 8,
                break_long_words=False,
                break_on_hyphens=False,
            )


async def report(config: Config, prefix: str, path: str) -> int:
    """Explain the values of the container or pod ``prefix`` at and below ``path``.

    Raises ConfigError if containerd does not respond or has no such container.
    """
    containerd = await Containerd.connect(config.containerd.address, config.containerd.namespace)
    try:
        record = await _record(containerd, prefix)
    except aio.AioRpcError as error:
        raise ConfigError(
            f"containerd at {config.containerd.address} does not respond: {error.details()}"
        ) from error
    finally:
        await containerd.close()
    kind = record.labels.get(labels.KIND, "")
    if kind not in _CONFIG_OF:
        raise ConfigError(f"container {record.id} was not created by a CRI server")
    spec = json.loads(record.spec.value) | _told(record, kind)
    explanations = list(explained(spec, _CONFIG_OF[kind], path))
    print(f"{kind} {record.id}")
    for explanation in explanations:
        print(*explanation.lines(), sep="\n")
    if not explanations:
        value = value_at(spec, path)
        known = "it is absent" if value is _ABSENT else f"its value is {json.dumps(value)}"
        print(f"{path}: no entry of the mapping decides it; {known}")
    print(f"Values without an entry come from {_DEFAULTS_OF[kind]}.")
    return 0


def explained(spec: Mapping[str, Any], config: str, path: str) -> Iterator[Explanation]:
    """Each target at, below or above ``path`` ("" for all) that a field of ``config`` decides.

    Without a path, only targets present in the spec.
    """
    for target, entries in TARGETS.items():
        deciding = tuple(e for e in entries if e.field.partition(".")[0] == config)
        if not deciding or target.startswith("Container."):
            continue
        if path and not (_covers(path, target) or _covers(target, path)):
            continue
        value = value_at(spec, target)
        if path or value is not _ABSENT:
            yield Explanation(target, value, deciding)


def value_at(spec: Mapping[str, Any], target: str) -> object:
    """The value of a target such as ``linux.resources.cpu.quota`` or ``annotations[a.b/c]``; of
    ``mounts[].source``, the value in each item that has one."""
    found: Any = spec
    steps = list(_steps(target))
    for number, step in enumerate(steps):
        if step == _EACH and isinstance(found, list):
            rest = [_below(item, steps[number + 1 :]) for item in found]
            return [value for value in rest if value is not _ABSENT] or _ABSENT
        found = _below(found, [step])
    return found


def _below(found: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if not isinstance(found, dict) or step not in found:
            return _ABSENT
        found = found[step]
    return found


def _covers(above: str, below: str) -> bool:
    return below == above or below.startswith((f"{above}.", f"{above}["))


def _steps(target: str) -> Iterator[str]:
    for plain, element in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", target):
        yield plain or element or _EACH


def _told(record: containers_pb2.Container, kind: str) -> dict[str, Any]:
    """What its steps and, for a pod, CNI plugins were told; empty if the record has no config."""
    extension = _EXTENSION_OF[kind]
    if extension not in record.extensions:
        return {"plan": {}}
    data = record.extensions[extension].value
    if kind == labels.CONTAINER:
        return {"plan": asdict(plan_container(records.container_metadata(data).config))}
    config = records.sandbox_metadata(data).config
    plugins = cni.runtime_config(config) | {"args": cni.arguments(config)}
    return {"plan": asdict(plan_sandbox(config)), "cni": plugins}


async def _record(containerd: Containerd, prefix: str) -> containers_pb2.Container:
    answer = await containerd.containers.List(containers_pb2.ListContainersRequest())
    found = [container for container in answer.containers if container.id.startswith(prefix)]
    if len(found) != 1:
        raise ConfigError(
            f'"{prefix}" matches {len(found)} containers and pods of containerd at '
            f"{containerd.address}; use a longer prefix"
            if found
            else f'containerd at {containerd.address} has no container or pod "{prefix}"'
        )
    only: containers_pb2.Container = found[0]
    return only
