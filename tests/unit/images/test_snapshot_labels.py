"""The labels of layers for snapshotters."""

from __future__ import annotations

import json

import pytest

from runtime.errors import FailedPrecondition
from runtime.images import snapshot_labels
from runtime.images.manifest import Manifest, child_labels, parse

ABOUT = "containerd.io/snapshot/cri."


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def manifest(layers: int, **annotations: object) -> Manifest:
    document = {
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(0),
            "size": 1,
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": digest(number),
                "size": 1,
                "annotations": annotations,
            }
            for number in range(1, layers + 1)
        ],
    }
    data = json.dumps(document).encode()
    parsed = parse(data, "application/vnd.oci.image.manifest.v1+json", digest(99))
    assert isinstance(parsed, Manifest)
    return parsed


def test_each_layer_names_the_image_and_the_layers_from_it_on() -> None:
    first, second = snapshot_labels.of_layers("a.example/app:1", manifest(2), annotations=True)
    assert first == {
        f"{ABOUT}image-ref": "a.example/app:1",
        f"{ABOUT}manifest-digest": digest(99),
        f"{ABOUT}layer-digest": digest(1),
        f"{ABOUT}image-layers": f"{digest(1)},{digest(2)}",
    }
    assert second[f"{ABOUT}image-layers"] == digest(2)


def test_the_list_of_layers_fits_into_a_label() -> None:
    first, *_ = snapshot_labels.of_layers("a", manifest(100), annotations=True)
    listed = first[f"{ABOUT}image-layers"]
    assert len(f"{ABOUT}image-layers") + len(listed) <= 4096
    assert len(f"{ABOUT}image-layers") + len(listed) + 72 > 4096
    assert listed.split(",") == [digest(n) for n in range(1, len(listed.split(",")) + 1)]


def test_annotations_of_layers_for_snapshots_are_labels_in_any_case() -> None:
    annotated = manifest(
        1, **{"containerd.io/snapshot/lazy.index": "x", "other": "y", "empty": None}
    )
    (labels,) = snapshot_labels.of_layers("a", annotated, annotations=False)
    assert labels == {"containerd.io/snapshot/lazy.index": "x"}


def test_an_annotation_that_is_no_text_is_refused_with_its_path() -> None:
    with pytest.raises(FailedPrecondition, match=r"layers\[0\]\.annotations"):
        manifest(1, key=5)


def test_layers_that_are_discarded_are_not_protected() -> None:
    assert child_labels(manifest(2), layers=False) == {
        "containerd.io/gc.ref.content.config": digest(0)
    }
