"""Which cgroups a test must remove, because runc leaves them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import cgroups


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    (tmp_path / "memory" / "pods").mkdir(parents=True)
    (tmp_path / "cpu").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (
            "/pods/a/b",
            {"memory/pods/a", "memory/pods/a/b", "cpu/pods", "cpu/pods/a", "cpu/pods/a/b"},
        ),
        ("/pods", {"cpu/pods"}),
        ("/../x", {"memory/x", "cpu/x"}),
        ("/", set()),
        ("", set()),
        ("/a\0b", {"memory/a\0b", "cpu/a\0b"}),
    ],
)
def test_the_missing_parents_deepest_first(root: Path, parent: str, expected: set[str]) -> None:
    missing = cgroups.missing(parent)
    # a relative parent also has its place below the cgroup of the test itself
    assert {str(path.relative_to(root)) for path in missing} >= expected
    depths = [len(path.parts) for path in missing]
    assert depths == sorted(depths, reverse=True)


def test_only_what_is_not_in_use_is_removed(root: Path) -> None:
    missing = cgroups.missing("/pods/a")
    (root / "memory" / "pods" / "a").mkdir()
    (root / "cpu" / "pods" / "a" / "used").mkdir(parents=True)
    cgroups.remove(missing)
    assert not (root / "memory" / "pods" / "a").exists()
    assert (root / "memory" / "pods").exists()
    assert (root / "cpu" / "pods" / "a" / "used").exists()
