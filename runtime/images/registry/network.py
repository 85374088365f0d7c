"""Network details of registry requests: proxies, TLS, and descriptions of errors."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from runtime import certificates
from runtime.documents import DocumentError, decode
from runtime.images.registry.hosts import RegistryHost, is_localhost


def tls_context(host: RegistryHost) -> ssl.SSLContext:
    """Trusted and client certificates for a host; blocks on file reads."""
    if host.skip_verify:
        # no CA certificates either: loading the system's takes 20 ms
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = ssl.create_default_context()
        for file in host.ca:
            certificates.trust(context, file)
    for certificate, key in host.client:
        certificates.load_chain(context, certificate, key)
    return context


class _WordsJson(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _RefusalJson(msgspec.Struct):
    errors: list[_WordsJson] | None = None


def registry_words(body: bytes) -> str:
    """A registry's reason for refusing (``errors`` of the distribution API), in one line."""
    try:
        errors = decode(body, _RefusalJson).errors or ()
    except DocumentError:
        return ""
    words = (": ".join(filter(None, (error.code, error.message))) for error in errors)
    return " ".join("; ".join(words).split())


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy for a URL from the environment, as Go reads it: never for loopback, and
    ``NO_PROXY`` may contain names, suffixes, addresses and networks."""
    parts = urlsplit(url)
    values = {name.lower(): value for name, value in environment.items() if value}
    proxy = values.get(f"{parts.scheme}_proxy")
    host = parts.hostname or ""
    if not proxy or is_localhost(parts.netloc) or _excepted(host, values.get("no_proxy", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _excepted(host: str, no_proxy: str) -> bool:
    return any(
        _matches(host, entry.strip().lower()) for entry in no_proxy.split(",") if entry.strip()
    )


def _matches(host: str, entry: str) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        name = urlsplit("//" + entry).hostname or ""
        return host == name.lstrip(".") or host.endswith("." + name.removeprefix("*").lstrip("."))


def network_errors() -> tuple[type[BaseException], ...]:
    """Exceptions of a request caused by the network or the other side."""
    import aiohttp

    return (aiohttp.ClientError, OSError, TimeoutError)


def is_not_tls(error: BaseException) -> bool:
    """Whether TLS failed before any certificate was seen: the port does not speak TLS."""
    import aiohttp

    return isinstance(error, aiohttp.ClientSSLError) and not isinstance(
        error, aiohttp.ClientConnectorCertificateError
    )


def why(error: BaseException) -> str:
    """A network error in words, without URLs (their queries may contain secrets)."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"its certificate is not trusted ({error.certificate_error}); set its CA in hosts.toml"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error) or "cannot connect"
    if isinstance(error, aiohttp.ClientResponseError):
        return error.message or f"answered {error.status}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended in the middle of the response"
    if isinstance(error, aiohttp.InvalidURL):
        return "its address is not a URL"
    if isinstance(error, TimeoutError):
        return "timed out"
    return str(error) or type(error).__name__
