"""``cri-containerd``: serve, doctor, explain, config."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Both are read when grpc is loaded: no threads of its own around a fork, and no lines of its own
# in the log.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from runtime import config as configuration
from runtime.config import Config, ConfigError

_DEFAULT_FILE = Path("/etc/cri-containerd/config.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 with a sentence on stderr when it is not."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Config], int] = arguments.run
    try:
        return run(arguments, _load(arguments))
    except ConfigError as error:
        print(f"cri-containerd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _serve(arguments: argparse.Namespace, config: Config) -> int:
    from runtime import server_log

    server_log.configure(config.log_level)
    if os.geteuid():
        raise ConfigError("serve needs root: it makes namespaces, mounts and cgroups")
    from runtime import app

    asyncio.run(app.serve(config, embed=arguments.embedded))
    return 0


def _config(arguments: argparse.Namespace, config: Config) -> int:
    print(configuration.as_toml(config), end="")
    return 0


def _doctor(arguments: argparse.Namespace, config: Config) -> int:
    from runtime import doctor

    return asyncio.run(doctor.report(config, embed=arguments.embedded))


def _explain(arguments: argparse.Namespace, config: Config) -> int:
    from runtime import explain

    return asyncio.run(explain.report(config, arguments.container, arguments.path))


def _load(arguments: argparse.Namespace) -> Config:
    """The file of ``--config``, or the usual one where it exists, with the command line on top."""
    path = arguments.config or (_DEFAULT_FILE if _DEFAULT_FILE.exists() else None)
    over: dict[str, Any] = {
        key: getattr(arguments, key)
        for key in ("listen", "root", "state", "log_level")
        if getattr(arguments, key) is not None
    }
    if arguments.containerd is not None:
        over["containerd"] = {"address": arguments.containerd}
    return configuration.load(path, over)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help=f"TOML file (default: {_DEFAULT_FILE}, if any)"
    )
    common.add_argument("--listen", metavar="URI", help="where the kubelet connects, unix:///path")
    common.add_argument("--containerd", metavar="URI", help="containerd's socket, unix:///path")
    common.add_argument("--root", metavar="DIR", help="files that survive a reboot")
    common.add_argument("--state", metavar="DIR", help="files that do not")
    common.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], help="default: info"
    )

    parser = argparse.ArgumentParser(
        prog="cri-containerd", description="A Kubernetes CRI server over containerd."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[..., int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[common], help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    embedded_help = "with a private containerd, started as a child, and an own pause image"
    serve = command("serve", _serve, "serve the CRI on a unix socket until SIGTERM")
    serve.add_argument("--embedded", action="store_true", help=embedded_help)
    doctor = command("doctor", _doctor, "say what this node lacks to run pods, and the remedy")
    doctor.add_argument("--embedded", action="store_true", help=embedded_help)
    explain = command("explain", _explain, "say which CRI field gave a container its OCI values")
    explain.add_argument("container", help="id of a container or a pod, or a unique prefix")
    explain.add_argument("path", nargs="?", default="", help="OCI path, e.g. linux.resources")
    command("config", _config, "print the effective configuration with all defaults")
    return parser


if __name__ == "__main__":
    sys.exit(main())
