"""References are completed as Docker completes them, and refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidArgument
from runtime.images import reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("written", "complete"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1", "docker.io/library/nginx:1"),
        ("me/app", "docker.io/me/app:latest"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:x", "localhost:5000/app:x"),
        ("host:5000/app", "host:5000/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("Registry/app", "Registry/app:latest"),
        ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        # a digest identifies the image, so the tag is dropped
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        ("a/b__c/d-e--f.g", "docker.io/a/b__c/d-e--f.g:latest"),
    ],
)
def test_reference_is_completed(written: str, complete: str) -> None:
    assert str(reference.parse(written)) == complete


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "it is empty"),
        ("a" * 64, "an image ID, not a name"),
        (DIGEST, "an image ID, not a name"),
        ("Nginx", "'library/Nginx' has upper-case letters"),
        ("host:5000/", "'' is not a repository"),
        ("nginx:", "'' is not a tag"),
        ("nginx:a b", "'a b' is not a tag"),
        ("nginx@sha256:abc", "'sha256:abc' is not a digest"),
        ("nginx@", "'' is not a digest"),
        ("-/nginx", "'-/nginx' is not a repository"),
        ("host..x/nginx", "'host..x' is not a registry's host and port"),
        ("https://host/nginx", "is not a registry's host and port"),
        ("a/" + "b" * 255, "longer than 255 characters"),
    ],
)
def test_refusal_says_why(written: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        reference.parse(written)
    assert reason in str(refused.value)
    assert refused.value.field == "image.image"


@given(st.text(max_size=80))
def test_completion_is_final(written: str) -> None:
    """Every accepted reference completes to one that completes to itself."""
    if reference.why_invalid(written) is None:
        complete = reference.parse(written)
        assert reference.parse(str(complete)) == complete
