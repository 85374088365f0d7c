"""The user of an image as reported to the kubelet, which checks runAsNonRoot with it."""

from __future__ import annotations

import pytest

from runtime.transforms import images


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("web:www", None, "web"),
        ("1000:www", 1000, ""),
        ("0", 0, ""),
        ("0" * 30, 0, ""),
        ("0" * 30 + "7", 7, ""),
        (":50", None, ""),
        # refused when a container is created, so it must not be reported as a name
        ("2147483648", 2147483648, ""),
        (str(2**63 - 1), 2**63 - 1, ""),
        # beyond the CRI's range: reported as a name, it is refused by the kubelet under
        # runAsNonRoot
        (str(2**63), None, str(2**63)),
        ("9" * 5000, None, "9" * 5000),
        ("\N{ARABIC-INDIC DIGIT ONE}", None, "\N{ARABIC-INDIC DIGIT ONE}"),
    ],
)
def test_number_or_name(user: str, uid: int | None, username: str) -> None:
    number = images.uid(user=user)
    assert (number.value if number else None, images.username(user=user)) == (uid, username)


@pytest.mark.parametrize(
    ("runtime_handler", "annotations", "handler"),
    [
        pytest.param("", {}, "", id="the default"),
        pytest.param("kata", {}, "kata", id="field"),
        pytest.param("", {"io.containerd.cri.runtime-handler": "kata"}, "kata", id="annotation"),
        pytest.param("runc", {"io.containerd.cri.runtime-handler": "kata"}, "runc", id="both"),
        pytest.param("", {"other": "kata"}, "", id="another annotation"),
    ],
)
def test_an_image_is_unpacked_for_the_handler_that_the_pull_names(
    runtime_handler: str, annotations: dict[str, str], handler: str
) -> None:
    assert images.handler(runtime_handler=runtime_handler, annotations=annotations) == handler
