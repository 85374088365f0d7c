"""SELinux levels: one for each pod, in use as long as its objects exist, so none can leak."""

from __future__ import annotations

from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from runtime.errors import ResourceExhausted
from runtime.store.objects import Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.transforms import facts, selinux
from runtime.transforms.facts import LabelParts, SelinuxLabels, SelinuxPolicy
from tests.unit.containers import samples

POLICY = SelinuxPolicy(process="u:r:container_t:s0", file="u:object_r:container_file_t:s0")
PAIRS_OF_THREE = {"s0:c0,c1", "s0:c0,c2", "s0:c1,c2"}


def add_pod(store: Store, pod_id: str, label: str) -> None:
    metadata = facts.SandboxMetadata(
        id=pod_id, name=pod_id, config=api_pb2.PodSandboxConfig(), process_label=label
    )
    store.sandboxes.add(metadata, facts.SandboxStatus(SandboxState.READY))


def test_every_pod_gets_a_level_of_its_own_until_none_is_left(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    levels = SelinuxLevels(store, POLICY, 3)
    found = set()
    for pod_id in ("a", "b", "c"):
        labels = levels.reserve(pod_id, LabelParts())
        assert labels.mount.endswith(selinux.level_of(labels.process))
        found.add(selinux.level_of(labels.process))
        add_pod(store, pod_id, labels.process)
        levels.release(pod_id)
    assert found == PAIRS_OF_THREE
    with pytest.raises(ResourceExhausted, match="all SELinux levels with two of 3 categories"):
        levels.reserve("d", LabelParts())
    pod = store.sandboxes.get("b")
    assert pod is not None
    freed = selinux.level_of(pod.metadata.process_label)
    store.sandboxes._drop(pod)
    assert selinux.level_of(levels.reserve("d", LabelParts()).process) == freed


def test_a_level_is_in_use_while_its_object_is_created(tmp_path: Path) -> None:
    levels = SelinuxLevels(samples.store(tmp_path), POLICY, 2)
    levels.reserve("a", LabelParts())
    with pytest.raises(ResourceExhausted):
        levels.reserve("b", LabelParts())
    levels.release("a")
    assert levels.reserve("b", LabelParts()).process == "u:r:container_t:s0:c0,c1"


def test_levels_of_an_earlier_run_are_in_use(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    add_pod(store, "old", "u:r:container_t:s0:c0,c1")
    levels = SelinuxLevels(store, POLICY, 2)
    with pytest.raises(ResourceExhausted):
        levels.reserve("new", LabelParts())


def test_a_given_level_needs_no_free_one_and_may_be_shared(tmp_path: Path) -> None:
    levels = SelinuxLevels(samples.store(tmp_path), POLICY, 2)
    levels.reserve("a", LabelParts())
    assert levels.reserve("b", LabelParts(level="s0:c0,c1")).process == "u:r:container_t:s0:c0,c1"
    inherited = levels.reserve("c", LabelParts(), pod_label="u:r:other_t:s0:c0,c1")
    assert inherited.process == "u:r:other_t:s0:c0,c1"


def test_without_selinux_nothing_is_labelled_and_what_is_asked_for_is_counted(
    tmp_path: Path,
) -> None:
    counted: list[str] = []
    levels = SelinuxLevels(samples.store(tmp_path), None, ignored=counted.append)
    assert levels.reserve("a", LabelParts(type="x_t", level="s0")) == SelinuxLabels()
    assert counted == ["SELinuxOption.type", "SELinuxOption.level"]
