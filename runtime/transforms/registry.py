"""The registry credentials in a pull request.

A registry token is used directly; otherwise the first that is set of user name with password,
identity token, and ``auth``.
"""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import urlsplit

from runtime.errors import InvalidArgument

_NO_BREAKS: Final = dict.fromkeys(map(ord, "\r\n"))


def user(*, registry_token: str, username: str, identity_token: str, auth: str) -> str:
    """The user name; empty if a token is used, and for an anonymous pull.

    Raises InvalidArgument.
    """
    if registry_token:
        return ""
    if username or identity_token:
        return username
    return _decoded(auth)[0]


def secret(
    *, registry_token: str, username: str, password: str, identity_token: str, auth: str
) -> str:
    """The password of the user; without a user, the identity token.

    Raises InvalidArgument.
    """
    if registry_token:
        return ""
    if username:
        return password
    return identity_token or _decoded(auth)[1]


def host(*, server_address: str) -> str:
    """Host and port of a server address, which may be a URL (``https://index.docker.io/v1/``).

    Raises InvalidArgument.
    """
    address = server_address if "://" in server_address else f"//{server_address}"
    try:
        return urlsplit(address).netloc
    except ValueError as error:
        raise InvalidArgument(
            f"must be a host, HOST:PORT or a URL: {error}", field="auth.server_address"
        ) from error


def _decoded(auth: str) -> tuple[str, str]:
    """User name and password, both empty if ``auth`` is; line breaks are skipped, because some
    encoders insert them."""
    if not auth:
        return "", ""
    try:
        text = base64.b64decode(auth.translate(_NO_BREAKS), validate=True).decode()
    except ValueError:  # of base64, of ASCII or of UTF-8
        text = ""  # the error must not repeat the credentials
    username, colon, password = text.partition(":")
    if not colon:
        raise InvalidArgument('must be the base64 of "username:password"', field="auth.auth")
    return username, password.rstrip("\x00")
