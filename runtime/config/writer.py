"""The effective configuration with all defaults: as plain tables and as TOML."""

from __future__ import annotations

from typing import Any

import msgspec
import tomli_w

from runtime.config.tables import Config, Duration


def as_builtins(config: Config) -> dict[str, Any]:
    """The effective configuration with all defaults, as plain tables."""
    tables: dict[str, Any] = msgspec.to_builtins(config, enc_hook=_encode)
    return tables


def shown(config: Config) -> dict[str, Any]:
    """The same for clients of the CRI: values of registry headers can be secrets."""
    tables = as_builtins(config)
    headers = tables["images"]["registry"]["headers"]
    headers.update({name: ["[hidden]"] * len(values) for name, values in headers.items()})
    return tables


def as_toml(config: Config) -> str:
    """The effective configuration as TOML that `runtime.config.file.load` reads."""
    return tomli_w.dumps(as_builtins(config))


def _encode(value: Any) -> Any:
    if isinstance(value, Duration):
        return f"{float(value):g}s"
    raise NotImplementedError(type(value))
