"""Results of CNI ADD: validated, and summarised for the pod's status.  Pure.

Every part of a result can be missing or null, and plugins that are not written in Go make use of
that. A value of a wrong type is refused with its path. Unknown keys are preserved, because the next
plugin and DEL get the result unchanged.
"""

from __future__ import annotations

import ipaddress
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from runtime.errors import Unknown

Json: TypeAlias = dict[str, Any]

DEFAULT_INTERFACE: Final = "eth0"
"""The first interface that plugins configure, by the kubelet's convention; its addresses are the
pod's."""

LARGEST: Final = 1 << 20
"""Maximum bytes of one result, which is stored in the cache and in the pod's record."""

DEEPEST: Final = 32
"""Maximum nesting of objects and lists."""

_OLD_FAMILIES: Final = ("ip4", "ip6")
_TEXTS: Final = {
    "interfaces": ("name", "mac", "sandbox", "pciID", "socketPath"),
    "ips": ("gateway",),
    "routes": ("dst", "gw"),
}
"""For each list in a result, the keys of its entries that must be strings if present."""


class ResultError(ValueError):
    """A result that cannot be used; the text continues a sentence that starts with "its result"."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """The addresses and results of a pod from all its networks."""

    ip: str
    """The pod's address."""
    additional_ips: tuple[str, ...]
    result: Json
    """In the built-in plugin's shape: Interfaces by name with IPConfigs, DNS, Routes."""


def parse(answer: bytes, version: str) -> Json:
    """Return a plugin's validated result of ADD; without a version it gets the list's.

    Raises ResultError.
    """
    if len(answer) > LARGEST:
        raise ResultError(f"is larger than {LARGEST >> 20} MiB")
    try:
        result = json.loads(answer)
    except RecursionError:
        raise ResultError(f"is nested deeper than {DEEPEST} levels") from None
    except ValueError:
        result = None
    if not isinstance(result, dict):
        said = answer[:200].decode("utf-8", "replace")
        raise ResultError(f"is not a JSON object: {said!r}")
    _check_values(result, DEEPEST)
    _check(result)
    return {**result, "cniVersion": result.get("cniVersion") or version}


def _check_values(value: Any, levels: int) -> None:
    """Refuse values that could not be written as JSON again."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ResultError("is wrong: a number is not finite")
    if isinstance(value, dict | list):
        if not levels:
            raise ResultError(f"is nested deeper than {DEEPEST} levels")
        for each in value.values() if isinstance(value, dict) else value:
            _check_values(each, levels - 1)


def _check(result: Json) -> None:
    """Refuse values of a wrong type."""
    _check_text(result, "cniVersion", "")
    lists = {key: _objects(result, key) for key in _TEXTS}
    for key, entries in lists.items():
        for number, entry in enumerate(entries):
            for text in _TEXTS[key]:
                _check_text(entry, text, f"{key}[{number}].")
    for number, ip in enumerate(lists["ips"]):
        _check_address(ip, "address", f"ips[{number}].")
        _check_number(ip, len(lists["interfaces"]), f"ips[{number}].")
    for family in _OLD_FAMILIES:
        if old := _object(result, family):
            _check_address(old, "ip", f"{family}.")
            _check_text(old, "gateway", f"{family}.")
    _object(result, "dns")


def _objects(of: Json, key: str) -> list[Json]:
    listed = of.get(key)
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise ResultError(f"is wrong: {key} must be a list, not {_shown(listed)}")
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise ResultError(f"is wrong: {key}[{number}] must be an object, not {_shown(entry)}")
    return listed


def _object(of: Json, key: str) -> Json:
    value = of.get(key)
    if value is not None and not isinstance(value, dict):
        raise ResultError(f"is wrong: {key} must be an object, not {_shown(value)}")
    return value or {}


def _check_text(of: Json, key: str, place: str) -> None:
    value = of.get(key)
    if value is not None and not isinstance(value, str):
        raise ResultError(f"is wrong: {place}{key} must be a string, not {_shown(value)}")


def _check_address(of: Json, key: str, place: str) -> None:
    value = of.get(key)
    try:
        if not isinstance(value, str):
            raise ValueError
        ipaddress.ip_interface(value)
    except ValueError:
        raise ResultError(
            f"is wrong: {place}{key} must be an address such as 10.0.0.2/24, not {_shown(value)}"
        ) from None


def _check_number(ip: Json, interfaces: int, place: str) -> None:
    number = ip.get("interface")
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < interfaces:
        raise ResultError(
            f"is wrong: {place}interface must be the number of one of {interfaces} interfaces, "
            f"not {_shown(number)}"
        )


def _shown(value: object) -> str:
    return json.dumps(value)[:100]


def attachment(sandbox_id: str, results: Sequence[Json], preference: str) -> Attachment:
    """Return the pod's addresses: those of its first interface."""
    summary = summarise(results)
    found = [each["IP"] for each in summary["Interfaces"][DEFAULT_INTERFACE]["IPConfigs"] or ()]
    if not found:
        raise Unknown(
            f"the CNI plugins gave pod {sandbox_id} no address on {DEFAULT_INTERFACE}: "
            "the network list lacks an address plugin (ipam)"
        )
    ip, additional = select_pod_ip(found, preference)
    return Attachment(ip, additional, summary)


def summarise(results: Sequence[Json]) -> Json:
    """Return the results of several networks as one, in the shape of containerd's go-cni.

    ``results`` are as `parse` gives them.
    """
    interfaces: dict[str, Json] = {DEFAULT_INTERFACE: _interface({})}
    dns: list[Json] = []
    routes: list[Json] = []
    for result in results:
        listed = result.get("interfaces") or []
        for each in listed:
            interfaces[_name(each)] = _interface(each)
        for address, gateway, number in _addresses(result):
            name = DEFAULT_INTERFACE if number is None else _name(listed[number])
            entry = {"IP": address, "Gateway": gateway}
            interfaces[name]["IPConfigs"] = [*(interfaces[name]["IPConfigs"] or ()), entry]
        dns.append(result.get("dns") or {})
        routes += result.get("routes") or []
    return {"Interfaces": interfaces, "DNS": dns, "Routes": routes or None}


def _name(of_result: Mapping[str, Any]) -> str:
    return of_result.get("name") or ""


def _interface(of_result: Mapping[str, Any]) -> Json:
    return {
        "IPConfigs": None,
        "Mac": of_result.get("mac") or "",
        "Sandbox": of_result.get("sandbox") or "",
        "PciID": of_result.get("pciID") or "",
        "SocketPath": of_result.get("socketPath") or "",
    }


def _addresses(result: Json) -> list[tuple[str, str, int | None]]:
    """Return (address, gateway, number of the interface) of a result of any version."""
    listed = [(ip["address"], ip.get("gateway"), ip.get("interface")) for ip in _ips(result)]
    # versions before 0.3.0
    old = [result[family] for family in _OLD_FAMILIES if result.get(family)]
    listed += [(ip["ip"], ip.get("gateway"), None) for ip in old]
    return [
        (str(ipaddress.ip_interface(address).ip), gateway or "", number)
        for address, gateway, number in listed
    ]


def _ips(result: Json) -> list[Json]:
    return result.get("ips") or []


def select_pod_ip(found: Sequence[str], preference: str) -> tuple[str, tuple[str, ...]]:
    """Return the pod's address, which is the first one of the preferred family, and the others.

    ``cni`` keeps the plugins' order; anything but ``ipv6`` prefers IPv4.
    """
    version = 6 if preference == "ipv6" else 4
    for number, address in enumerate(found):
        if preference != "cni" and ipaddress.ip_address(address).version == version:
            return address, (*found[:number], *found[number + 1 :])
    return found[0], tuple(found[1:])
