"""Parents of pods' cgroups, which the kubelet creates and removes on a real node.

runc creates a missing parent and does not remove it, so whoever requests one removes it.
"""

from __future__ import annotations

import contextlib
import os.path
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
DEFAULT_PARENT = "k8s.io"  # of pods without a parent, with the driver cgroupfs


def roots() -> list[Path]:
    """The unified hierarchy, or that of each cgroup v1 controller."""
    if (ROOT / "cgroup.procs").exists():
        return [ROOT]
    return [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def parent_path(name: str, *, systemd: bool) -> str:
    """The ``cgroup_parent`` of a pod, in the format of the cgroup driver."""
    return f"/{name}.slice" if systemd else f"/{name}"


def make_parent(name: str, *, systemd: bool) -> None:
    """Create the parent in every hierarchy, with every controller."""
    if systemd:
        subprocess.run(["systemctl", "start", f"{name}.slice"], capture_output=True, check=True)
        # systemd itself enables only the controllers that it uses
        for controller in (ROOT / "cgroup.controllers").read_text().split():
            (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
        return
    for root in roots():
        (root / name).mkdir()


def below(name: str, pattern: str, *, systemd: bool) -> list[Path]:
    """Cgroups below the parent, such as ``*/*pod*``, in all hierarchies."""
    parent = parent_path(name, systemd=systemd).lstrip("/")
    return [path for root in roots() for path in (root / parent).glob(pattern) if path.is_dir()]


def remove_parent(name: str, *, systemd: bool, with_children: bool = False) -> None:
    """Remove the parent; one that still has a cgroup is left, for the leak check to find.

    ``with_children`` also removes the cgroups below it, unless a process is in them.
    """
    if systemd:
        subprocess.run(["systemctl", "stop", f"{name}.slice"], capture_output=True, check=False)
        return
    for root in roots():
        found = sorted((root / name).rglob("*/"), reverse=True) if with_children else []
        for path in (*found, root / name):
            with contextlib.suppress(OSError):
                path.rmdir()


def missing(parent: str) -> list[Path]:
    """The cgroups that a pod with this parent would make besides its own, the deepest first.

    runc takes a relative path from the cgroup that containerd itself is in.
    """
    own = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    starts = {Path("/")} if parent.startswith("/") else {Path("/"), *map(Path, own)}
    whole = os.path.normpath(f"/{parent}").lstrip("/")
    candidates = {
        place
        for root in roots()
        for start in starts
        for below in (Path(whole), *Path(whole).parents)
        if below != Path()
        for place in [root / str(start).lstrip("/") / below]
    }
    return [
        path
        for path in sorted(candidates, key=lambda path: len(path.parts), reverse=True)
        if not os.path.isdir(path)
    ]


def remove(made: Iterable[Path]) -> None:
    """Remove these cgroups, the deepest first; one that is in use stays."""
    for path in made:
        with contextlib.suppress(OSError, ValueError):
            path.rmdir()


@contextlib.contextmanager
def without_new_default_parent() -> Iterator[None]:
    """Remove the default parent at the end if it did not exist before, unless it is in use."""
    before = [root for root in roots() if (root / DEFAULT_PARENT).exists()]
    yield
    if not before:
        remove_parent(DEFAULT_PARENT, systemd=False)
