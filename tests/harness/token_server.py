"""A token server for docker-registry: issues JWTs signed with its own key, over plain HTTP."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Self

from aiohttp import web

ISSUER = "test-issuer"
SERVICE = "test-registry"


class TokenServer:
    """Use as ``async with TokenServer(directory, port) as server``; knows one user."""

    def __init__(self, directory: Path, port: int):
        self.port = port
        self.key, self.certificate = self_signed(directory, "tokens")
        self.username, self.password = "puller", f"pass-{secrets.token_hex(4)}"
        self.identity_token = f"identity-{secrets.token_hex(4)}"
        self.asked: list[tuple[str, dict[str, str]]] = []
        """Method and parameters of each request."""
        self.knows_post = True

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self.port}/token"

    @property
    def registry_auth(self) -> str:
        """The section ``auth`` of docker-registry's configuration."""
        return (
            f"auth:\n  token:\n    realm: {self.realm}\n    service: {SERVICE}\n"
            f"    issuer: {ISSUER}\n    rootcertbundle: {self.certificate}\n"
        )

    def token(self, repository: str, actions: list[str]) -> str:
        """A JWT for one repository."""
        der = base64.b64encode(_der(self.certificate)).decode()
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": SERVICE,
            "sub": self.username,
            "exp": now + 300,
            "nbf": now - 10,
            "jti": secrets.token_hex(8),
            "access": [{"type": "repository", "name": repository, "actions": actions}],
        }
        head = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
        signed = (
            f"{_base64url(json.dumps(head).encode())}.{_base64url(json.dumps(claims).encode())}"
        )
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=signed.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{signed}.{_base64url(signature)}"

    async def _answer(self, request: web.Request) -> web.Response:
        form = {k: str(v) for k, v in (await request.post()).items()}
        parameters = form if request.method == "POST" else dict(request.query)
        self.asked.append((request.method, parameters))
        if request.method == "POST" and not self.knows_post:
            return web.Response(status=405)
        if not self._is_known(request, parameters):
            return web.json_response({"errors": [{"code": "UNAUTHORIZED"}]}, status=401)
        _, repository, actions = parameters["scope"].split(":")
        token = self.token(repository, actions.split(","))
        return web.json_response({"access_token": token, "token": token, "expires_in": 300})

    def _is_known(self, request: web.Request, parameters: dict[str, str]) -> bool:
        match parameters.get("grant_type"):
            case "password":
                sent = (parameters["username"], parameters["password"])
                return sent == (self.username, self.password)
            case "refresh_token":
                return parameters["refresh_token"] == self.identity_token
        pair = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return request.headers.get("Authorization") == f"Basic {pair}"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/token", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def self_signed(directory: Path, name: str) -> tuple[Path, Path]:
    """Key and self-signed certificate for 127.0.0.1."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", key, "-out", certificate, "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:TRUE"),
        ],
        capture_output=True,
        check=True,
    )
    return key, certificate


def _der(certificate: Path) -> bytes:
    lines = certificate.read_text().splitlines()
    return base64.b64decode("".join(line for line in lines if not line.startswith("-----")))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
