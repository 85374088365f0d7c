"""containerd and runc of newer Debian releases, and the newest CRIU, next to the system's.

``./dev test`` unpacks them into the user's cache directory before the tests, and checks for newer
versions once a week. The binaries need a newer libc than the system may have; those that do not run
here use the release's own, unpacked with them (a wrapper script would not work: runc executes
/proc/self/exe again).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import debian

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cri-containerd")
RELEASES = ("trixie", "sid")  # the last has the newest
_WEEK = 7 * 86400.0  # seconds
_PROGRAMS = (
    *("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr"),
    "usr/sbin/runc",
)
_LIBRARIES = ("libc6", "libseccomp2")


def unpacked(release: str) -> Path | None:
    """The directory of a release's binaries, None if they are not in the cache."""
    current = CACHE / release / "current"
    return current.resolve() / "bin" if current.exists() else None


def problem() -> str:
    """Why the newest was not available at the last attempt; "" if it was."""
    note = CACHE / "problem"
    return note.read_text().strip() if note.exists() else ""


def unpack() -> None:
    """Update the cache; if that fails, its content is kept and ``problem`` says why."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(_is_fresh(release) for release in RELEASES):
            return
        note = CACHE / "problem"
        note.unlink(missing_ok=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                apt = debian.Apt(Path(folder), [debian.codename(), *RELEASES])
                for release in RELEASES:
                    _unpack_release(apt, release)
        except (debian.Unavailable, OSError, subprocess.CalledProcessError) as error:
            note.write_text(f"{error}\n")


def _is_fresh(release: str) -> bool:
    stamp = CACHE / release / "current"
    return stamp.exists() and time.time() - stamp.lstat().st_mtime < _WEEK


def _unpack_release(apt: debian.Apt, release: str) -> None:
    """Unpack the release's current version; ``current`` names it once it is complete."""
    names = [apt.file_name(package, release) for package in ("containerd", "runc")]
    # named by version, because library paths are written into the binaries; no ":" in PATH
    version = "+".join(name.rpartition("_")[0] for name in names).replace(":", "%3a")
    target = CACHE / release / version
    print(f"tests: unpacking {', '.join(names)} into {target}", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    for package in ("containerd", "runc", *_LIBRARIES):
        apt.unpack(package, release, target / ("libraries" if package in _LIBRARIES else "."))
    (target / "bin").mkdir()
    for program in _PROGRAMS:
        (target / program).rename(target / "bin" / Path(program).name)
    libraries = target / "libraries"
    if broken := [path for path in (target / "bin").iterdir() if not _runs(path)]:
        apt.unpack("patchelf", debian.codename(), target / "tools")
        for path in broken:
            _point_at_libraries(path, target, libraries)
    if release == RELEASES[-1]:
        _unpack_criu(apt, release, target)
    for rest in ("etc", "tools", "usr"):
        shutil.rmtree(target / rest, ignore_errors=True)
    current = CACHE / release / "current"
    new = current.with_name("new")
    new.unlink(missing_ok=True)
    new.symlink_to(target.name)
    new.rename(current)
    for old in current.parent.iterdir():
        if old not in (current, target):
            shutil.rmtree(old)


def _unpack_criu(apt: debian.Apt, release: str, target: Path) -> None:
    """Add CRIU: an older one than the kernel often cannot dump anything.

    Without it, tests of checkpoints that need it are skipped.
    """
    libraries = target / "criu"
    program = target / "bin" / "criu"
    try:
        apt.unpack_all("criu", release, libraries)
        apt.unpack("patchelf", debian.codename(), target / "tools")
        (libraries / "usr/sbin/criu").rename(program)
        _point_at_libraries(program, target, libraries)
    except (debian.Unavailable, OSError, subprocess.CalledProcessError) as error:
        program.unlink(missing_ok=True)
        print(f"tests: no CRIU of {release}: {error}", flush=True)


def _runs(program: Path) -> bool:
    flag = "-v" if program.name.startswith("containerd-shim") else "--version"
    return subprocess.run([program, flag], capture_output=True, check=False).returncode == 0


def _point_at_libraries(program: Path, target: Path, libraries: Path) -> None:
    (loader,) = libraries.glob("usr/lib/*/ld-linux-*.so.*")
    patchelf = target / "tools/usr/bin/patchelf"
    # the older kind of rpath is also for the libraries of libraries
    edits = ("--force-rpath", "--set-interpreter", loader, "--set-rpath", loader.parent)
    subprocess.run([patchelf, *edits, program], check=True)
    if not _runs(program):
        raise debian.Unavailable(f"{program} does not run with the libraries of its release")


if __name__ == "__main__":
    unpack()
    if said := problem():
        print(f"tests: newer containerds could not be had: {said}", file=sys.stderr)
