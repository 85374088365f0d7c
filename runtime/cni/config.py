"""CNI network lists: loaded and validated from a directory, and reloaded when it changes.

Files ``*.conf``, ``*.conflist`` and ``*.json`` are used in the order of their names; the first
``max_conf_num`` of them become the interfaces eth0, eth1, … of every pod.

Loading is all or nothing: an invalid file is never skipped in favour of the next one, because pods
would then silently start in the wrong network.  After a failed load, the lists of the last
successful load stay in use, so pods keep starting, and the error is reported with file, line and
remedy until it is fixed.  Without an earlier successful load, or if no file is left, the network is
not ready.  If the directory is removed, the network is not ready until it exists again.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from json.decoder import JSONObject  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog

from runtime import regular_files

log = structlog.get_logger(__name__)

Json: TypeAlias = dict[str, Any]

SUFFIXES: Final = (".conf", ".conflist", ".json")
_LARGEST: Final = 4 << 20
"""Maximum bytes of a file."""
VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Supported versions of the CNI specification, oldest first."""

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_NAME_LIMIT: Final = 180
"""The name of a file in the result cache has at most 255 bytes: network, pod ID and interface."""


@dataclass(frozen=True, slots=True)
class CniPlugin:
    """One plugin of a network list."""

    kind: str
    """The name of its executable (``type``)."""
    config: Json
    capabilities: frozenset[str]
    """Keys of ``runtimeConfig`` that the plugin requests."""


@dataclass(frozen=True, slots=True)
class CniList:
    """One network: the plugins that are called for each pod, in order."""

    name: str
    version: str
    plugins: tuple[CniPlugin, ...]
    source: bytes
    """The list as stored in the result cache, from which DEL reads it."""
    path: str = ""
    collects: bool = True
    """Whether plugins may free what no attachment uses (``disableGC`` is not set)."""

    def speaks(self, version: str) -> bool:
        """Return whether the list's version is at least ``version``."""
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


class CniConfigError(Exception):
    """A network list that cannot be used: the place, the problem and the remedy."""

    def __init__(self, problem: str, remedy: str, *, path: str = "", line: int = 0) -> None:
        self.problem = problem
        self.remedy = remedy
        place = f"{path}:{line}: " if line else f"{path}: " if path else ""
        super().__init__(f"{place}{problem}; {remedy}")


def load(directory: str, max_conf_num: int) -> tuple[CniList, ...]:
    """Return the networks of a directory, in order; raises CniConfigError.

    ``max_conf_num`` 0 means all of them.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIXES))
    except OSError as error:
        raise CniConfigError(
            f"cannot read the CNI directory: {error.strerror}",
            "create it, or set cni.conf_dir to where the network's DaemonSet writes its file",
            path=directory,
        ) from None
    paths = [path for name in names if (path := Path(directory, name)).is_file()]
    if not paths:
        raise CniConfigError(
            "no network config found",
            "install a pod network; until then only pods on the host network can run",
            path=directory,
        )
    return tuple(load_file(path) for path in paths[: max_conf_num or None])


def load_file(path: Path) -> CniList:
    """Return the network in one file; a single plugin becomes a list. Raises CniConfigError."""
    source = _read(path)
    return parse(source, path=str(path), is_list=path.suffix == ".conflist")


def _read(path: Path) -> bytes:
    try:
        return regular_files.read(path, largest=_LARGEST)
    except OSError as error:
        raise CniConfigError(
            f"cannot read it: {error.strerror}", "fix or remove the file", path=str(path)
        ) from None


def parse(source: bytes, *, path: str = "", is_list: bool = True) -> CniList:
    """Return the network in the text of a file; raises CniConfigError."""
    text = _Text(path, source.decode("utf-8", "replace"))
    whole = text.whole()
    if not is_list:
        if "plugins" in whole:
            raise text.error(whole, "a list of plugins", "rename the file to *.conflist", "plugins")
        version = _version(text, whole)
        name = _network_name(text, whole)
        plugin = _plugin(text, whole)
        listed = {"name": name, "cniVersion": version, "plugins": [whole]}
        source = json.dumps(listed, separators=(",", ":")).encode()
        collects = not _switch(text, whole, "disableGC")
        return CniList(name, version, (plugin,), source, path, collects)
    version = _version(text, whole)
    name = _network_name(text, whole)
    inlined = whole.get("plugins", [])
    if not isinstance(inlined, list):
        raise text.error(
            whole, "plugins must be a list", "write plugins: [{type: …}, …]", "plugins"
        )
    plugins = [_plugin(text, each) for each in inlined]
    if not _switch(text, whole, "loadOnlyInlinedPlugins") and path:
        further = _plugins_of_directory(Path(path).parent / name)
        if further:
            plugins += further
            configs = [plugin.config for plugin in plugins]
            inlined_all = {**whole, "plugins": configs, "loadOnlyInlinedPlugins": True}
            source = json.dumps(inlined_all, separators=(",", ":")).encode()
    if not plugins:
        raise text.error(whole, "no plugins", "list at least one plugin", "plugins")
    collects = not _switch(text, whole, "disableGC")
    return CniList(name, version, tuple(plugins), source, path, collects)


class _Text:
    """A JSON text, with the line of each object."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._starts: dict[int, int] = {}

    def whole(self) -> Json:
        decoder = json.JSONDecoder()
        decoder.parse_object = self._parse_object  # type: ignore[attr-defined]
        decoder.scan_once = py_make_scanner(decoder)  # type: ignore[attr-defined]
        try:
            whole = decoder.decode(self._text)
        except json.JSONDecodeError as error:
            raise CniConfigError(
                f"not JSON: {error.msg}", "fix it", path=self._path, line=error.lineno
            ) from None
        except RecursionError:
            raise CniConfigError("it is nested too deeply", "fix it", path=self._path) from None
        except ValueError as error:  # an integer of more digits than Python converts
            raise CniConfigError(f"not usable: {error}", "fix it", path=self._path) from None
        if not isinstance(whole, dict):
            raise CniConfigError("not a JSON object", "write {…}", path=self._path, line=1)
        return whole

    def error(self, where: object, problem: str, remedy: str, key: str = "") -> CniConfigError:
        """Return an error at the line of ``key`` in an object, or of the object itself."""
        start = self._starts.get(id(where), 0)
        if key and (found := re.compile(rf'"{re.escape(key)}"\s*:').search(self._text, start)):
            start = found.start()
        line = self._text.count("\n", 0, start) + 1
        return CniConfigError(problem, remedy, path=self._path, line=line)

    def _parse_object(self, text_and_end: tuple[str, int], *arguments: Any) -> tuple[Json, int]:
        parsed, end = JSONObject(text_and_end, *arguments)
        self._starts[id(parsed)] = text_and_end[1] - 1
        return parsed, end


def _version(text: _Text, whole: Json) -> str:
    """Return the newest version that both the list and this runtime support."""
    stated = whole.get("cniVersion") or "0.1.0"
    offered = whole.get("cniVersions", [])
    if not isinstance(offered, list) or not all(isinstance(each, str) for each in offered):
        raise text.error(
            whole, "cniVersions must be a list of strings", "write them in quotes", "cniVersions"
        )
    known = [version for version in VERSIONS if version in (stated, *offered)]
    if not known:
        raise text.error(
            whole,
            f"cniVersion {stated!r} is unknown here",
            f"use one of {', '.join(VERSIONS)}",
            "cniVersion",
        )
    return known[-1]


def _network_name(text: _Text, whole: Json) -> str:
    name = whole.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "the network has no name" if name is None else f"{name!r} is not a network name"
        remedy = "name: letters, digits, and after the first also _ . -"
        raise text.error(whole, problem, remedy, "name")
    if len(name) > _NAME_LIMIT:
        problem = f"the network's name has {len(name)} characters"
        raise text.error(whole, problem, f"use at most {_NAME_LIMIT}", "name")
    return name


def _plugin(text: _Text, config: object) -> CniPlugin:
    if not isinstance(config, dict):
        raise text.error(config, "a plugin must be an object", "write {type: …}", "plugins")
    kind = config.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind:
        problem = "a plugin has no type" if kind is None else f"{kind!r} is not a plugin's type"
        raise text.error(config, problem, "type: the name of an executable in cni.bin_dirs")
    capabilities = config.get("capabilities", {})
    if not isinstance(capabilities, dict):
        raise text.error(
            config,
            f"capabilities of {kind} must be an object",
            "write capabilities: {portMappings: true}",
            "capabilities",
        )
    wanted = frozenset(name for name, wants in capabilities.items() if wants is True)
    return CniPlugin(kind, config, wanted)


def _plugins_of_directory(directory: Path) -> list[CniPlugin]:
    """Return the plugins in separate files, ``<conf_dir>/<network>/*.conf``."""
    plugins = []
    try:
        paths = sorted(directory.glob("*.conf"))
    except OSError as error:
        raise CniConfigError(
            f"cannot read it: {error.strerror}", "fix or remove it", path=str(directory)
        ) from None
    for path in paths:
        text = _Text(str(path), _read(path).decode("utf-8", "replace"))
        plugins.append(_plugin(text, text.whole()))
    return plugins


def _switch(text: _Text, whole: Json, key: str) -> bool:
    """Return a boolean, which can be written as a string, as in libcni."""
    value = whole.get(key, False)
    known = {True: True, False: False, "true": True, "false": False}
    value = value.lower() if isinstance(value, str) else value
    if not isinstance(value, bool | str) or value not in known:
        raise text.error(whole, f"{key} must be true or false", f"{key}: true", key)
    return known[value]
