"""``cri-containerd``: serve, doctor, explain, config."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when grpc is loaded: no background threads around a fork, and no log lines of its own.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from runtime.config import file, writer
from runtime.config.tables import Config, ConfigError

if TYPE_CHECKING:
    from runtime.server.embedded import Daemon

_DEFAULT_FILE = Path("/etc/cri-containerd/config.toml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 on success, or 1 with a message on stderr."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Config], int] = arguments.run
    try:
        return run(arguments, _load(arguments))
    except ConfigError as error:
        print(f"cri-containerd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (such as head) has exited; avoid an error message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _serve(arguments: argparse.Namespace, config: Config) -> int:
    from runtime.linux import children
    from runtime.server import embedded, log, state_lock

    if os.geteuid():
        raise ConfigError("serve needs root: it creates namespaces, mounts and cgroups")
    log.configure(config.log_level)
    with state_lock.alone_in(config.state_dir):
        children.end_left(config.state_dir)
        children.mark(config.state_dir)
        # The daemon starts while the server's larger modules are loaded.
        daemon = embedded.started(config) if arguments.embedded else None
        try:
            asyncio.run(_loaded_and_served(config, daemon))
        finally:
            if daemon:
                daemon.stop()
    return 0


async def _loaded_and_served(config: Config, daemon: Daemon | None) -> None:
    # Objects created while loading live for ever: collecting garbage meanwhile takes a tenth of the
    # time, and every later collection would scan all of them.
    gc.disable()
    from runtime.server import listener

    # Clients can connect while the larger modules are loaded.
    server = listener.bound(config.socket)
    from runtime.server import app

    gc.freeze()
    gc.enable()
    await app.serve(config, server, daemon)


def _config(arguments: argparse.Namespace, config: Config) -> int:
    print(writer.as_toml(config), end="")
    return 0


def _doctor(arguments: argparse.Namespace, config: Config) -> int:
    from runtime.commands import doctor
    from runtime.server import log

    log.configure("critical")
    return asyncio.run(doctor.report(config, embed=arguments.embedded))


def _explain(arguments: argparse.Namespace, config: Config) -> int:
    from runtime.commands import explain
    from runtime.server import log

    log.configure("critical")
    return asyncio.run(explain.report(config, arguments.container, arguments.path))


def _load(arguments: argparse.Namespace) -> Config:
    """The file of ``--config``, or the default one if it exists, overridden by the command line."""
    path = arguments.config or (_DEFAULT_FILE if _DEFAULT_FILE.exists() else None)
    over: dict[str, Any] = {
        key: getattr(arguments, key)
        for key in ("listen", "root", "state", "log_level")
        if getattr(arguments, key) is not None
    }
    if arguments.containerd is not None:
        over["containerd"] = {"address": arguments.containerd}
    config = file.load(path, over)
    if getattr(arguments, "embedded", False):
        from runtime.server import embedded

        config = embedded.configured(config)
    return config


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

    serve = command("serve", _serve, "serve the CRI on a unix socket until SIGTERM")
    doctor = command("doctor", _doctor, "check what this node lacks to run pods, and how to fix it")
    explain = command(
        "explain", _explain, "show which CRI fields produced a container's OCI values"
    )
    for sub in (serve, doctor, explain):
        sub.add_argument(
            "--embedded",
            action="store_true",
            help="with a private containerd, started as a child, and a built-in pause image",
        )
    explain.add_argument("container", help="ID of a container or a pod, or a unique prefix")
    explain.add_argument("path", nargs="?", default="", help="OCI path, e.g. linux.resources")
    command("config", _config, "print the effective configuration with all defaults")
    return parser


if __name__ == "__main__":
    sys.exit(main())
