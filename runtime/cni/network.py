"""The pods' network: calls CNI plugins for each pod, as in the CNI specification 1.1.

ADD calls the plugins of a network in order, each with the result of the previous one; DEL calls
them in reverse.  CNI does not set up the loopback interface; ``netns`` does.

DEL undoes what ADD did: config, arguments and result of an interface are read from the result
cache, so a changed or removed config file does not block the removal of a pod.  If the cache has no
entry (ADD failed half-way, or the server was killed), DEL uses the current config; plugins must
accept a DEL for something they never added.  The current config is also used if a plugin is no
longer on the node.  What cannot be removed is logged, counted and abandoned.

GC is called once, after recovery.  CHECK is never called, as in the built-in plugin: marking a pod
as broken would not repair its network, and its probes notice.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, Protocol

import structlog

from generated import cni
from generated.cri import api_pb2
from runtime.cni import plugin as cni_plugin
from runtime.cni.cache import PodInterface, ResultCache
from runtime.cni.config import CniConfigError, CniList, CniPlugin, parse
from runtime.cni.directory import CniDirectory
from runtime.cni.plugin import PluginError
from runtime.cni.result import Attachment, Json, ResultError, attachment
from runtime.cni.result import parse as parse_result
from runtime.errors import CriError, InvalidArgument, Unavailable, Unknown
from runtime.linux import netns
from runtime.steps.background import in_background

log = structlog.get_logger(__name__)

PLUGIN_SECONDS: Final = {"ADD": 180.0, "DEL": 90.0, "STATUS": 10.0, "GC": 10.0}
"""Time limit of one plugin, in seconds: less than the kubelet's deadlines for the waiting calls."""

_PASSING: Final = frozenset({11, 50})
"""CNI error codes for "try again later" and "not available now"."""

GRACE: Final = 5.0
"""Seconds for ADD or DEL to finish after its caller was cancelled; each takes a tenth of a second.

A plugin that is killed half-way can leave what no DEL finds: bridge's DEL deletes the interface
first, finds the firewall rules of the pod by the interface's addresses, and fails if its ADD had
not made all of them.
"""

_REPLACING_TRIES: Final = 10
_REPLACING_SECONDS: Final = 0.2

_ETH: Final = re.compile(r"eth\d{1,4}")

_LOOPBACK_NETWORK: Final = "cni-loopback"
"""The built-in CRI plugin's network for the loopback interface; its pods can be recovered here."""


class Settings(Protocol):
    """The keys of the ``[cni]`` table that are used here."""

    @property
    def bin_dirs(self) -> Sequence[str]: ...
    @property
    def conf_dir(self) -> str: ...
    @property
    def max_conf_num(self) -> int: ...
    @property
    def setup_serially(self) -> bool: ...
    @property
    def ip_pref(self) -> str: ...


class Operated(Protocol):
    """Counts a setup (``set_up_pod``) or teardown (``tear_down_pod``) of a pod's network."""

    def __call__(self, operation: str, seconds: float, *, succeeded: bool) -> None: ...


class Network:
    """All CNI networks of the node."""

    def __init__(
        self,
        settings: Settings,
        *,
        of_handlers: Mapping[str, tuple[str, int]] | None = None,
        cache: ResultCache | None = None,
        given_up: Callable[[str], None] = lambda _kind: None,
        operated: Operated | None = None,
    ) -> None:
        """``of_handlers`` has the directory and the maximum number of networks of each runtime
        handler with networks of its own. ``given_up`` counts, by kind, what is abandoned because it
        cannot be undone; ``operated`` counts setups and teardowns of pods.
        """
        self._settings = settings
        self._operated = operated
        self._given_up = given_up
        self._cache = cache or ResultCache()
        self._directory = CniDirectory(settings.conf_dir, settings.max_conf_num)
        self._of_handlers = {
            handler: CniDirectory(directory, number)
            for handler, (directory, number) in (of_handlers or {}).items()
        }
        self._half_added: set[str] = set()
        """Pods whose ADD started and did not succeed; the cache can lack some of their
        interfaces."""
        self._deletions: dict[str, asyncio.Task[None]] = {}
        self._collection: asyncio.Task[None] | None = None
        """The plugins' GC; ADD waits for it, because GC would free what ADD takes meanwhile."""

    async def start(self) -> None:
        """Read the config and watch it.  Without a usable config the network is not ready."""
        for directory in (self._directory, *self._of_handlers.values()):
            await directory.start()

    async def stop(self) -> None:
        """Stop watching the config."""
        if self._collection is not None:
            self._collection.cancel()
            await asyncio.gather(self._collection, return_exceptions=True)
        for directory in (self._directory, *self._of_handlers.values()):
            await directory.stop()

    def _of(self, handler: str) -> CniDirectory:
        """The networks of a handler's pods: its own, else those of ``[cni]``."""
        return self._of_handlers.get(handler, self._directory)

    @property
    def networks(self) -> tuple[CniList, ...]:
        """The networks of a new pod: eth0, eth1, …"""
        return self._directory.networks

    @property
    def handlers(self) -> tuple[str, ...]:
        """The runtime handlers with networks of their own."""
        return tuple(self._of_handlers)

    def problem(self, handler: str = "") -> str | None:
        """Return why a new pod would get no network, judging by the files; None if it would."""
        directory = self._of(handler)
        if not directory.networks:
            return str(directory.problem)
        for network in directory.networks:
            for plugin in network.plugins:
                if cni_plugin.find(plugin.kind, self._settings.bin_dirs) is None:
                    return (
                        f"{network.path}: CNI plugin {plugin.kind} is in none of "
                        f"{', '.join(self._settings.bin_dirs)}; install it there"
                    )
        return None

    def config_problem(self, handler: str = "") -> str | None:
        """Return the problem with the files, even if an earlier config is still in use."""
        problem = self._of(handler).problem
        return str(problem) if problem else None

    async def status(self) -> str | None:
        """Return why a new pod would get no network; also queries plugins with STATUS (1.1.0)."""
        problem = self.problem()
        if problem is not None:
            return problem
        try:
            for network in self.networks:
                if network.speaks("1.1.0"):
                    for plugin in network.plugins:
                        config = _plugin_config(network, plugin)
                        await self._call(plugin, "STATUS", config, {})
        except PluginError as error:
            return str(error)
        return None

    def collect(self, pods: Collection[str]) -> None:
        """Let plugins free what no attachment uses, such as addresses (GC, 1.1.0), in the
        background; called before the first ADD.

        ``pods`` are the sandboxes that exist.  Every interface in the result cache counts as in
        use, too: it can belong to a pod that could not be read, or to another runtime.
        """
        networks: dict[str, tuple[int, CniList]] = {}
        for directory in (self._directory, *self._of_handlers.values()):
            for number, network in enumerate(directory.networks):
                if network.collects and network.speaks("1.1.0"):
                    networks.setdefault(network.name, (number, network))
        if networks:
            self._collection = asyncio.create_task(self._collect(networks.values(), pods))

    async def _collect(
        self, networks: Iterable[tuple[int, CniList]], pods: Collection[str]
    ) -> None:
        for number, network in networks:
            used = {(pod, f"eth{number}") for pod in pods} | set(
                self._cache.of_network(network.name)
            )
            valid = [{"containerID": pod, "ifname": name} for pod, name in sorted(used)]
            for plugin in network.plugins:
                config = _plugin_config(network, plugin)
                # the second name is for plugins that were written by an early draft
                config |= {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
                try:
                    await self._call(plugin, "GC", config, {})
                except PluginError as error:
                    # many plugins do not know the command
                    log.info("CNI GC failed", network=network.name, problem=str(error))

    async def add(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        handler: str = "",
    ) -> Attachment:
        """Attach a pod to every network.

        If this fails or is cancelled, it can be partly done; the caller must then call ``delete``.
        The networks are added in parallel, or in order with ``setup_serially``.  If the caller is
        cancelled, the plugins have `GRACE` seconds to finish before they are killed; they have
        ended when this returns.
        """
        adding = asyncio.create_task(self._add(sandbox_id, netns_path, config, handler))
        try:
            return await asyncio.shield(adding)
        except asyncio.CancelledError:
            try:
                await asyncio.wait({adding}, timeout=GRACE)
            finally:
                adding.cancel()
                await asyncio.gather(adding, return_exceptions=True)
            raise

    async def _add(
        self, sandbox_id: str, netns_path: str, config: api_pb2.PodSandboxConfig, handler: str
    ) -> Attachment:
        if self._collection is not None:
            await asyncio.wait({self._collection})
        problem = self.problem(handler)
        if problem is not None:
            raise Unavailable(f"the pod network is not ready: {problem}")
        capabilities = cni.runtime_config(config)
        wanted = self._wanted(sandbox_id, netns_path, config, capabilities, handler)
        self._half_added.add(sandbox_id)
        with self._counted("set_up_pod"):
            if self._settings.setup_serially:
                results = [await self._add_interface(interface) for interface in wanted]
            else:
                results = await _all_ended([self._add_interface(interface) for interface in wanted])
            got = attachment(sandbox_id, results, self._settings.ip_pref)
        self._half_added.discard(sandbox_id)
        return got

    async def delete(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        had_result: bool,
        handler: str = "",
    ) -> None:
        """Detach a pod from its networks.  Idempotent; works without the network namespace.

        If ADD never returned a result (``had_result`` false), failures of the plugins are logged
        and not raised, because it is unknown what there is to undo.

        If the caller is cancelled, it continues for `GRACE` seconds, and the next call for the pod
        waits for it.  A plugin that hangs is killed after that time, and the next call starts it
        again.
        """
        left = self._deletions.get(sandbox_id)
        if left is not None:
            await asyncio.wait({left})
            if not left.cancelled():
                return left.result()
        deletion = in_background(self._delete(sandbox_id, netns_path, config, had_result, handler))
        self._deletions[sandbox_id] = deletion
        deletion.add_done_callback(lambda _: self._deletions.pop(sandbox_id))
        try:
            await asyncio.shield(deletion)
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(GRACE, deletion.cancel)
            raise

    async def _delete(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        had_result: bool,
        handler: str,
    ) -> None:
        path = netns_path if netns.is_alive(netns_path) else ""
        interfaces = [replace(cached, netns=path) for cached in self._cache.of(sandbox_id)]
        if not (had_result and interfaces) or sandbox_id in self._half_added:
            known = {interface.name for interface in interfaces}
            capabilities = _valid_runtime_config(config)
            wanted = self._wanted(sandbox_id, path, config, capabilities, handler)
            interfaces += [interface for interface in wanted if interface.name not in known]
        if had_result and not interfaces:
            raise Unavailable(
                f"the network of pod {sandbox_id} cannot be removed: {self.config_problem(handler)}"
            )
        with self._counted("tear_down_pod"):
            for interface in interfaces:
                await self._delete_interface(interface, handler, best_effort=not had_result)
        self._half_added.discard(sandbox_id)

    @contextmanager
    def _counted(self, operation: str) -> Iterator[None]:
        began, succeeded = time.monotonic(), False
        try:
            yield
            succeeded = True
        finally:
            if self._operated:
                self._operated(operation, time.monotonic() - began, succeeded=succeeded)

    def _wanted(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        capabilities: Json,
        handler: str,
    ) -> list[PodInterface]:
        """Return the interfaces that a pod gets with the current config."""
        arguments = {
            "IgnoreUnknown": "1",  # plugins that know none of the keys must not fail
            "K8S_POD_INFRA_CONTAINER_ID": sandbox_id,
            **cni.arguments(config),
        }
        return [
            PodInterface(
                network=network.name,
                container_id=sandbox_id,
                name=f"eth{number}",
                netns=netns_path,
                config=network.source,
                arguments=arguments,
                capabilities=capabilities,
                result={},
            )
            for number, network in enumerate(self._of(handler).networks)
        ]

    async def _add_interface(self, interface: PodInterface) -> Json:
        """Call ADD of a network's plugins, first to last, and cache the result."""
        network = _parsed(interface.config)
        result: Json = {}
        for plugin in network.plugins:
            try:
                answer = await self._call_for(interface, network, plugin, "ADD", result)
                result = parse_result(answer, network.version)
            except PluginError as error:
                raise _failure(interface, error) from error
            except ResultError as error:
                wrong = PluginError(plugin.kind, "ADD", f"its result {error}")
                raise _failure(interface, wrong) from error
        self._cache.write(replace(interface, result=result))
        return result

    async def _delete_interface(
        self, interface: PodInterface, handler: str, *, best_effort: bool
    ) -> None:
        """Call DEL of a network's plugins, last to first, and remove the result from the cache.

        A plugin that is no longer on the node cannot undo what it did, and must not block the
        removal of the pod forever: the current config is tried, and what cannot be removed is
        logged and counted.
        """
        not_undone = await self._delete_as_added(interface, best_effort=best_effort)
        if not_undone:
            await self._delete_by_todays_config(interface, self._of(handler).networks)
            self._given_up("cni")
            log.error(
                "a pod's network cannot be removed completely; giving up",
                network=interface.network,
                sandbox=interface.container_id,
                interface=interface.name,
                problems=not_undone,
            )
        self._cache.remove(interface)

    async def _delete_as_added(
        self, interface: PodInterface, *, best_effort: bool
    ) -> Sequence[str]:
        """Call DEL with the config of ADD; return what can never be undone, and why."""
        try:
            network = _parsed(interface.config)
        except CniConfigError as error:
            return [f"the config in the result cache: {error}"]
        previous = interface.result if network.speaks("0.4.0") else {}
        not_undone = []
        for plugin in _undone(interface, network):
            await self._until_replaced(plugin)
            try:
                await self._call_for(interface, network, plugin, "DEL", previous)
            except PluginError as error:
                if error.missing:
                    not_undone.append(str(error))
                elif best_effort:
                    log.warning("pod network", problem=str(_failure(interface, error)))
                elif not _is_gone_already(error, interface.netns):
                    raise _failure(interface, error) from error
        return not_undone

    async def _until_replaced(self, plugin: CniPlugin) -> None:
        """Wait briefly for a missing plugin, in case it is being upgraded."""
        for _ in range(_REPLACING_TRIES):
            if cni_plugin.find(plugin.kind, self._settings.bin_dirs) is not None:
                return
            await asyncio.sleep(_REPLACING_SECONDS)

    async def _delete_by_todays_config(
        self, interface: PodInterface, networks: Sequence[CniList]
    ) -> None:
        """Call DEL with the current config, unless it is the config of ADD."""
        number = int(interface.name.removeprefix("eth")) if _ETH.fullmatch(interface.name) else -1
        if not 0 <= number < len(networks):
            return
        network = networks[number]
        if network.source == interface.config:
            return
        for plugin in reversed(network.plugins):
            try:
                await self._call_for(interface, network, plugin, "DEL", {})
            except PluginError as error:
                log.warning("CNI DEL with the current config failed", problem=str(error))

    async def _call_for(
        self,
        interface: PodInterface,
        network: CniList,
        plugin: CniPlugin,
        command: str,
        previous: Mapping[str, Any],
    ) -> bytes:
        config = _plugin_config(network, plugin)
        if previous:
            config["prevResult"] = previous
        offered = interface.capabilities
        asked = {name: offered[name] for name in sorted(plugin.capabilities) if name in offered}
        if asked:
            config["runtimeConfig"] = asked
        arguments = {
            "CNI_CONTAINERID": interface.container_id,
            "CNI_NETNS": interface.netns,
            "CNI_IFNAME": interface.name,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in interface.arguments.items()),
        }
        return await self._call(plugin, command, config, arguments)

    async def _call(
        self, plugin: CniPlugin, command: str, config: Json, arguments: Mapping[str, str]
    ) -> bytes:
        return await cni_plugin.call(
            plugin.kind,
            self._settings.bin_dirs,
            command,
            config,
            arguments,
            PLUGIN_SECONDS[command],
        )


@lru_cache(maxsize=32)
def _parsed(config: bytes) -> CniList:
    """Return the network of a cached config; a node has few, and each is used for every pod."""
    return parse(config)


def _plugin_config(network: CniList, plugin: CniPlugin) -> Json:
    """Return a plugin's input: its config with the list's name and version."""
    return {**plugin.config, "name": network.name, "cniVersion": network.version}


def _undone(interface: PodInterface, network: CniList) -> Iterable[CniPlugin]:
    """Return the plugins for DEL, in calling order."""
    return () if interface.network == _LOOPBACK_NETWORK else reversed(network.plugins)


def _of(interface: PodInterface) -> str:
    return f"network {interface.network} of pod {interface.container_id}"


def _failure(interface: PodInterface, error: PluginError) -> CriError:
    kind = Unavailable if error.code in _PASSING else Unknown
    return kind(f"{_of(interface)}: {error}")


def _valid_runtime_config(config: api_pb2.PodSandboxConfig) -> Json:
    """Return the capability values; none if the config is invalid, because ADD refused it too."""
    try:
        return cni.runtime_config(config)
    except InvalidArgument:
        return {}


def _is_gone_already(error: PluginError, netns: str) -> bool:
    """Return whether a DEL failed only because there was nothing left to delete.

    Plugins report this differently (containernetworking/plugins#210); containerd checks the same
    two texts.
    """
    return "not found" in str(error) or (netns == "" and "no such file or directory" in str(error))


async def _all_ended(steps: Sequence[Awaitable[Json]]) -> list[Json]:
    """Return all results, or raise the first error after every step has finished."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
