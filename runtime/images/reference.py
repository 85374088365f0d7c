"""Image references as users write them, completed as Docker and containerd do.

``nginx`` becomes ``docker.io/library/nginx:latest``. Of a tag and a digest only the digest is kept,
because it identifies the image. The grammar is that of distribution/reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from runtime.errors import InvalidArgument

DEFAULT_DOMAIN: Final = "docker.io"
_LEGACY_DEFAULT_DOMAIN: Final = "index.docker.io"
_OFFICIAL_PREFIX: Final = "library/"
_DEFAULT_TAG: Final = "latest"
_NAME_LIMIT: Final = 255

_ALNUM: Final = r"[a-z0-9]+"
_COMPONENT: Final = rf"{_ALNUM}(?:(?:\.|_|__|-+){_ALNUM})*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_LENGTH: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_BARE_HEX: Final = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A complete reference: registry, repository and either a tag or a digest."""

    domain: str
    """The registry as written in references, with its port: ``docker.io``, ``localhost:5000``."""
    path: str
    """The repository in that registry: ``library/nginx``."""
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def object(self) -> str:
        """The last part of the ``manifests/`` URL: the digest or the tag."""
        return self.digest or self.tag

    def at(self, digest: str) -> str:
        """The same repository with a digest, as listed in ``repo_digests``."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def is_digest(text: str) -> bool:
    """Whether ``text`` is a complete digest of a known algorithm, ``sha256:<64 hex>``."""
    algorithm, colon, digits = text.partition(":")
    return bool(
        colon and len(digits) == _HEX_LENGTH.get(algorithm) and re.fullmatch(r"[a-f0-9]+", digits)
    )


def parse(text: str) -> Reference:
    """The complete reference for a user's text; raises InvalidArgument with the reason."""
    reason = why_invalid(text)
    if reason:
        raise InvalidArgument(
            f"{text!r} is not an image reference: {reason}; "
            "write [REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]",
            field="image.image",
        )
    domain, path, tag, digest = _split(text)
    if digest:
        return Reference(domain, path, digest=digest)
    return Reference(domain, path, tag=tag or _DEFAULT_TAG)


def why_invalid(text: str) -> str | None:
    """Why ``text`` is not a reference, as the end of a sentence; None if it is one."""
    if not text:
        return "it is empty"
    if _BARE_HEX.fullmatch(text) or is_digest(text):
        return "it is an image ID, not a name"
    domain, path, tag, digest = _split(text)
    if not _DOMAIN.fullmatch(domain) or not _is_address(domain):
        return f"{domain!r} is not a registry's host and port"
    if path != path.lower():
        return f"the repository {path!r} has upper-case letters"
    if not _PATH.fullmatch(path):
        return f"{path!r} is not a repository"
    if len(domain) + 1 + len(path) > _NAME_LIMIT:
        return f"registry and repository together are longer than {_NAME_LIMIT} characters"
    if tag is not None and not _TAG.fullmatch(tag):
        return f"{tag!r} is not a tag"
    if digest is not None and not is_digest(digest):
        return f"{digest!r} is not a digest"
    return None


def _is_address(domain: str) -> bool:
    """Whether the port is one and the brackets contain an IPv6 address."""
    try:
        parts = urlsplit("//" + domain)
        return parts.port is None or parts.port >= 0
    except ValueError:
        return False


def _split(text: str) -> tuple[str, str, str | None, str | None]:
    """Domain, path, tag and digest; None for parts that the text lacks."""
    rest, at, digest = text.partition("@")
    first, slash, remainder = rest.partition("/")
    if slash and _looks_like_domain(first):
        domain = DEFAULT_DOMAIN if first == _LEGACY_DEFAULT_DOMAIN else first
        path = remainder
    else:
        domain, path = DEFAULT_DOMAIN, rest
    path, colon, tag = path.partition(":")
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL_PREFIX + path
    return domain, path, tag if colon else None, digest if at else None


def _looks_like_domain(component: str) -> bool:
    """The first component is a registry if it cannot be a Docker Hub account."""
    return (
        "." in component
        or ":" in component
        or component == "localhost"
        or component != component.lower()
    )
