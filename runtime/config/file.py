"""The configuration file: TOML, with keys named as in containerd's CRI plugin.

An unknown key, a value of the wrong type or a missing file stops the start: ``ConfigError`` gives
the file, line and key, and what is allowed there.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from runtime import regular_files
from runtime.config import checks, faults, foreign
from runtime.config.tables import (
    DEFAULT_PAUSE,
    Config,
    ConfigError,
    Duration,
    RuncOptions,
    Runtime,
)

_DEFAULT_ENTRIES: Final[Mapping[str, Any]] = {
    "containerd": {"runtimes": {"runc": {}}},
    "images": {"pinned_images": {"sandbox": DEFAULT_PAUSE}},
}
"""Tables with free names: the file adds entries to the defaults instead of replacing them."""


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration in ``path`` (None: all defaults), with ``overrides`` on top.

    ``overrides`` comes from the command line and is nested like the file. Raises ConfigError.
    """
    text = _read(path) if path else ""
    name = str(path) if path else "the command line"
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: invalid TOML: {error}") from error
    for key, problem in foreign.refused(values):
        raise ConfigError(f"{faults.place(name, text, key)}: {'.'.join(key)}: {problem}")
    values = foreign.without(values)
    merged = _merged(_merged(_DEFAULT_ENTRIES, values), overrides or {})
    try:
        config = msgspec.convert(merged, Config, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(faults.explained(error, name, text)) from error
    config = _with_runc_options(config, name, text)
    for key, problem in checks.unusable(config):
        raise ConfigError(f"{faults.place(name, text, key)}: {'.'.join(key)}: {problem}")
    return config


def _read(path: Path) -> str:
    try:
        return regular_files.read(path).decode()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: file not found; create it, or omit --config to use the defaults"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        below = both.get(key)
        both[key] = (
            _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return both


def _decode(kind: type, value: Any) -> Any:
    if kind is Duration:
        return Duration.parse(value)
    raise NotImplementedError(kind)


def _with_runc_options(config: Config, name: str, text: str) -> Config:
    """The configuration with all options of runc's shim; raises ConfigError for an unknown one."""
    runtimes: dict[str, Runtime] = {}
    for handler, runtime in config.containerd.runtimes.items():
        try:
            options = msgspec.to_builtins(runtime.runc) if runtime.is_runc else runtime.options
        except msgspec.ValidationError as error:
            table = ("containerd", "runtimes", handler, "options")
            raise ConfigError(
                faults.explained(error, name, text, table=table, kind=RuncOptions)
            ) from error
        runtimes[handler] = msgspec.structs.replace(runtime, options=options)
    containerd = msgspec.structs.replace(config.containerd, runtimes=runtimes)
    return msgspec.structs.replace(config, containerd=containerd)
