"""Packages of other Debian releases, unpacked into a folder without installing them."""

from __future__ import annotations

import re
import subprocess
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Unavailable(Exception):
    """The packages are not available here; the text says why."""


def mirror() -> str:
    """The mirror in this machine's own apt sources; raises Unavailable if there is none."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for source in filter(Path.is_file, sources):
        if found := re.search(r"https?://\S*/debian/?(?=\s|$)", source.read_text()):
            return found[0]
    raise Unavailable("no Debian source in /etc/apt names a mirror")


def codename() -> str:
    """The release that this machine runs, such as ``bookworm``."""
    found = re.search(r"^VERSION_CODENAME=(\w+)$", Path("/etc/os-release").read_text(), re.M)
    if found is None:
        raise Unavailable("/etc/os-release names no Debian release")
    return found[1]


class Apt:
    """apt with sources and lists of its own, below ``directory``."""

    def __init__(self, directory: Path, releases: Sequence[str]):
        self._directory = directory
        (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        (directory / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        source = f"deb [signed-by={KEYRING}] {mirror()}"
        (directory / "sources.list").write_text(
            "".join(f"{source} {release} main\n" for release in dict.fromkeys(releases))
        )
        self._options = [
            f"-oDir::Etc::sourcelist={directory}/sources.list",
            "-oDir::Etc::sourceparts=/dev/null",
            f"-oDir::State::Lists={directory}/lists",
            f"-oDir::Cache={directory}",
            "-oAPT::Sandbox::User=root",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=2",
        ]
        self._run("update")

    def file_name(self, package: str, release: str) -> str:
        """The package's file in the release, which has its version; raises Unavailable."""
        uri = self._run("download", "--print-uris", f"{package}/{release}").split()[0].strip("'")
        return urllib.parse.unquote(uri.rpartition("/")[2])

    def unpack(self, package: str, release: str, target: Path) -> None:
        """Unpack a release's package below ``target``; raises Unavailable."""
        self._run("download", f"{package}/{release}")
        (archive,) = self._directory.glob(f"{package}_*.deb")
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "--extract", archive, target], check=True)
        archive.unlink()

    def unpack_all(self, package: str, release: str, target: Path) -> None:
        """Unpack a release's package and all that it depends on, without recommendations.

        Raises Unavailable.
        """
        nothing_installed = self._directory / "status"
        nothing_installed.touch()
        self._run(
            "install",
            *("--yes", "--download-only", "--no-install-recommends", "-t", release, package),
            f"-oDir::State::status={nothing_installed}",
            "-oDebug::NoLocking=true",
        )
        target.mkdir(parents=True, exist_ok=True)
        for archive in (self._directory / "archives").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, target], check=True)
            archive.unlink()

    def _run(self, *arguments: str) -> str:
        command = ["apt-get", "-qq", *self._options, *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self._directory,
                capture_output=True,
                text=True,
                check=False,
                timeout=300,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"apt-get {arguments[0]}: {error}") from error
        lines = done.stderr.splitlines()
        # update succeeds, with a warning, if it reached no mirror
        complaints = [line for line in lines if line.startswith(("E:", "W: Failed"))]
        if done.returncode or complaints:
            said = [*complaints, *lines, f"exit status {done.returncode}"]
            raise Unavailable(f"apt-get {' '.join(arguments)}: {said[0]}")
        return done.stdout
