"""Where a container logs, and which manifest it runs."""

from __future__ import annotations

import pytest

from runtime.errors import InvalidArgument
from runtime.transforms.containers import image_digest, log_path
from runtime.transforms.facts import Image


def path(directory: str, file: str) -> str:
    return log_path(log_directory=directory, log_path=file)


@pytest.mark.parametrize(
    ("directory", "file", "expected"),
    [
        ("/var/log/pods/p", "c/0.log", "/var/log/pods/p/c/0.log"),
        ("/var/log/pods/p/", "/c/0.log", "/var/log/pods/p/c/0.log"),
        ("/var/log/pods/p", "a/../0.log", "/var/log/pods/p/0.log"),
        ("/", "0.log", "/0.log"),
        ("", "0.log", ""),
        ("/var/log/pods/p", "", ""),
    ],
)
def test_a_log_is_below_the_pods_directory(directory: str, file: str, expected: str) -> None:
    assert path(directory, file) == expected


@pytest.mark.parametrize("file", ["../0.log", "../../../etc/x", "..", ".", "../p2/0.log", "a/.."])
def test_a_log_that_leaves_the_directory_is_refused(file: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.log_path: must be a file below"):
        path("/var/log/pods/p", file)


@pytest.mark.parametrize(
    ("directory", "file", "says"),
    [
        ("/var/log/pods/p", "a/" * 2500 + "0.log", "at most 4095 bytes, not 5021"),
        ("/var/log/" + "d/" * 2040, "app/0.log", "at most 4095 bytes, not 4098"),
        ("/var/log/pods/p", "x" * 256 + "/0.log", "names of at most 255 bytes .*, not 256"),
    ],
)
def test_a_log_path_too_long_for_a_file_is_refused(directory: str, file: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"config\.log_path: must .*{says}"):
        path(directory, file)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("example.com:5000/a/b:1", "sha256:bb"),
        ("example.com:5000/a/b", "sha256:bb"),
        ("example.com/other:1", "sha256:cc"),
        ("example.com/x@sha256:dd", "sha256:dd"),
        ("sha256:aa", ""),
        ("", ""),
    ],
)
def test_the_digest_is_that_of_the_image_record(reference: str, expected: str) -> None:
    digests = ("example.com/other@sha256:cc", "example.com:5000/a/b@sha256:bb")
    assert image_digest(Image(reference=reference, digests=digests)) == expected
