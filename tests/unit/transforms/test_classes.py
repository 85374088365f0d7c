"""Block I/O and RDT classes: which annotation counts, and its effect."""

from __future__ import annotations

import pytest

from generated.oci import types
from runtime.errors import FailedPrecondition
from runtime.transforms import classes


@pytest.mark.parametrize("kind", ["blockio", "rdt"])
@pytest.mark.parametrize(
    ("own", "of_pod", "expected"),
    [
        ({}, {}, ""),
        ({}, {"container.other": "a"}, ""),
        ({}, {"pod": "a"}, "a"),
        ({}, {"pod": "a", "container.app": "b"}, "b"),
        ({"io.kubernetes.cri.{}-class": "c"}, {"pod": "a", "container.app": "b"}, "c"),
        ({"io.kubernetes.cri.{}-class": ""}, {"pod": "a"}, ""),
    ],
)
def test_the_closest_annotation_counts(
    kind: str, own: dict[str, str], of_pod: dict[str, str], expected: str
) -> None:
    annotations = {key.format(kind): value for key, value in own.items()}
    pod = {f"{kind}.resources.beta.kubernetes.io/{key}": value for key, value in of_pod.items()}
    assert classes.requested(kind, "app", annotations, pod)[0] == expected


def test_a_class_is_refused_with_its_annotation_and_the_key_that_ignores_it() -> None:
    own, pod = {"io.kubernetes.cri.rdt-class": "gold"}, {
        "blockio.resources.beta.kubernetes.io/pod": "slow"
    }
    with pytest.raises(
        FailedPrecondition, match=r"^config\.annotations\[io\.kubernetes\.cri\.rdt-c"
    ):
        classes.intel_rdt(
            name="app",
            annotations=own,
            of_pod={},
            ignore_rdt_not_enabled_errors=False,
            injected=None,
        )
    with pytest.raises(
        FailedPrecondition, match=r"'slow'.*ignore_blockio_not_enabled_errors = true"
    ):
        classes.block_io(
            name="app", annotations={}, of_pod=pod, ignore_blockio_not_enabled_errors=False
        )


def test_a_class_is_ignored_where_the_config_says_so() -> None:
    group = types.LinuxIntelRdt(closID="of a device")
    own = {"io.kubernetes.cri.rdt-class": "gold", "io.kubernetes.cri.blockio-class": "slow"}
    found = classes.intel_rdt(
        name="app", annotations=own, of_pod={}, ignore_rdt_not_enabled_errors=True, injected=group
    )
    assert found == group
    assert (
        classes.block_io(
            name="app", annotations=own, of_pod={}, ignore_blockio_not_enabled_errors=True
        )
        is None
    )
