"""One session for each job, run in the project's ``.venv``; ``./dev NAME`` is ``nox -s NAME``."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "lint", "types", "tests"]

BIN = Path(sys.executable).parent


def _run(session: nox.Session, tool: str, *args: str, **kwargs: object) -> None:
    session.run(str(BIN / tool), *args, external=True, **kwargs)  # type: ignore[arg-type]


@nox.session
def generate(session: nox.Session) -> None:
    """Write generated/ from spec/."""
    _run(session, "cri-codegen", "generate", *session.posargs)


@nox.session
def check(session: nox.Session) -> None:
    """Fail, naming the differences, if generated/ is not what spec/ generates."""
    _run(session, "cri-codegen", "check", *session.posargs)


@nox.session
def diff(session: nox.Session) -> None:
    """Named changes between two CRI versions or revisions of the mapping: ``-- OLD NEW``."""
    _run(session, "cri-codegen", "diff", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, and black in check mode; black also checks the generated files."""
    _run(session, "ruff", "check", ".")
    _run(session, "black", "--check", "--quiet", "codegen", "runtime", "tests", "noxfile.py")
    made = ("--extend-exclude", "_pb2", "generated", "examples")
    _run(session, "black", "--check", "--quiet", *made)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on codegen, runtime and tests."""
    _run(session, "mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """What ``./dev test`` runs: unit, golden, property and e2e on real containerd."""
    _run(session, "python", "-m", "tests.harness.newer_containerd")
    _run(session, "pytest", *session.posargs)


@nox.session
def crashpoints(session: nox.Session) -> None:
    """Interrupt every operation at every await, recover, continue as the kubelet: ``N points, N
    clean``."""
    _run(session, "python", "-m", "tests.crashpoints", *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Alter each entry of the mapping; a fast test must fail: ``N mutants, N killed``; ``-- WORDS``
    for those whose name has them."""
    _run(session, "python", "-m", "tests.mutation", *session.posargs)


@nox.session
def extremes(session: nox.Session) -> None:
    """Every field of every request at its extremes, on a server in memory and on containerd."""
    env = {"CRI_TEST_EXTREMES": "all"}
    _run(session, "pytest", "tests/unit/server/test_extremes.py", env=env)
    _run(session, "pytest", "tests/extremes", *session.posargs)


@nox.session
def versions(session: nox.Session) -> None:
    """The generated package of every pinned CRI version, imported and used; ``./dev test`` does
    so for two."""
    env = {"CRI_TEST_VERSIONS": "all"}
    _run(session, "pytest", "tests/unit/codegen/test_at_version.py", *session.posargs, env=env)


@nox.session
def conformance(session: nox.Session) -> None:
    """critest on our server, if it is on PATH: ``-- [--containerd system|sid|DIR] [--parallel N]
    [--seed N] [--streaming [--websocket]] [critest flags]``."""
    _run(session, "python", "-m", "tests.conformance", *session.posargs)


@nox.session
def kubelet(session: nox.Session) -> None:
    """A real kubelet on our server, if one is on PATH: ``-- [--containerd system|sid|DIR] [pytest
    options]``."""
    _run(session, "pytest", "tests/kubelet", "-rs", *session.posargs)


@nox.session
def corpus(session: nox.Session) -> None:
    """What a change makes of real requests, by entry: ``-- [REVISION]`` (default: HEAD)."""
    _run(session, "python", "-m", "tests.corpus", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """The review site in a headless Chromium, if one is on PATH: ``-- [pytest options]``."""
    _run(session, "pytest", "tests/site", "-rs", *session.posargs)


@nox.session
def node(session: nox.Session) -> None:
    """The demo and the e2e tests on a Debian 13 node under QEMU."""
    _run(session, "python", "-m", "tests.node", *session.posargs)


@nox.session
def differential(session: nox.Session) -> None:
    """The same requests to our server and to the built-in plugin: ``-- [--containerd
    system|sid|DIR] [--cases N] [--seed N] [--only KIND]``."""
    _run(session, "python", "-m", "tests.differential", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Pod cycles alternately on this server and on the built-in plugin; writes docs/benchmarks/."""
    _run(session, "python", "-m", "tests.bench", *session.posargs)
