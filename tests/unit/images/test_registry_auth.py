"""Credentials reach the right host in the right form, and nothing else."""

from __future__ import annotations

import base64

import pytest

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.images.registry.auth import (
    ANONYMOUS,
    Authorizer,
    Challenge,
    Credentials,
    TokenError,
    TokenRequest,
    challenges,
    credentials,
    fetch_token,
)

AUTH = base64.b64encode(b"me:pass:word\x00\x00").decode()
BEARER = Challenge(
    "bearer", realm="https://auth.example/token", service="reg", scope="repository:a:pull"
)


@pytest.mark.parametrize(
    ("auth", "meaning"),
    [
        ({}, ANONYMOUS),
        ({"username": "u", "password": "p"}, Credentials("u", "p")),
        ({"auth": AUTH}, Credentials("me", "pass:word")),
        ({"identity_token": "i"}, Credentials(secret="i")),
        ({"username": "u", "password": "p", "identity_token": "i"}, Credentials("u", "p")),
        ({"registry_token": "r", "username": "u"}, Credentials(bearer="r")),
        (
            {"identity_token": "i", "server_address": "https://index.docker.io/v1/"},
            Credentials(secret="i", server="index.docker.io"),
        ),
        (
            {"identity_token": "i", "server_address": "quay.io:443/x"},
            Credentials(secret="i", server="quay.io:443"),
        ),
    ],
)
def test_meaning_of_auth_config(auth: dict[str, str], meaning: Credentials) -> None:
    assert credentials(api_pb2.AuthConfig(**auth)) == meaning


@pytest.mark.parametrize("auth", ["!", base64.b64encode(b"nocolon").decode(), "/w=="])
def test_malformed_auth_is_refused_without_repeating_it(auth: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        credentials(api_pb2.AuthConfig(auth=auth))
    assert refused.value.field == "auth.auth"
    assert auth not in refused.value.message


def test_only_the_named_server_sees_them() -> None:
    hub = Credentials("u", "p", server="index.docker.io")
    assert hub.for_host("registry-1.docker.io") is hub
    assert hub.for_host("quay.io") is ANONYMOUS
    assert Credentials("u", "p").for_host("quay.io").username == "u"


def test_secrets_are_never_shown() -> None:
    who = Credentials("u", "hunter2", bearer="tok")
    shown = repr(who) + repr(TokenRequest("POST", "https://a", {"password": "hunter2"}, "tok"))
    assert "hunter2" not in shown
    assert "tok" not in shown
    assert who.hide("bad password hunter2") == "bad password [hidden]"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="repository:x/y:pull,push"',
            [Challenge("bearer", "https://a/t", "s", "repository:x/y:pull,push")],
        ),
        ('Basic realm="r, Bearer of news"', [Challenge("basic", "r, Bearer of news")]),
        (
            'basic realm="r", bearer realm=https://a error="invalid_token"',
            [Challenge("basic", "r"), Challenge("bearer", "https://a", error="invalid_token")],
        ),
        ("Negotiate", []),
        ("", []),
        ("Basic", [Challenge("basic")]),
    ],
)
def test_challenges_are_read(header: str, found: list[Challenge]) -> None:
    assert challenges(header) == found


class TokenServer:
    """Answers as told and keeps what it was sent."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[TokenRequest] = []

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]:
        self.requests.append(request)
        return self.answers.pop(0)


async def test_nobody_asks_by_get() -> None:
    server = TokenServer((200, b'{"token": "t"}'))
    assert await fetch_token(BEARER, "repository:a:pull", ANONYMOUS, server) == "t"
    (request,) = server.requests
    assert (request.method, request.basic) == ("GET", "")
    assert request.parameters == {"service": "reg", "scope": "repository:a:pull"}


async def test_password_goes_by_oauth() -> None:
    server = TokenServer((200, b'{"access_token": "t"}'))
    assert await fetch_token(BEARER, "", Credentials("u", "p"), server) == "t"
    (request,) = server.requests
    assert request.method == "POST"
    assert request.parameters["grant_type"] == "password"
    assert request.parameters["password"] == "p"


@pytest.mark.parametrize("status", [401, 404, 405])
async def test_server_without_post_is_asked_by_get(status: int) -> None:
    server = TokenServer((status, b""), (200, b'{"token": "t"}'))
    assert await fetch_token(BEARER, "", Credentials("u", "p"), server) == "t"
    assert server.requests[1].method == "GET"
    assert server.requests[1].basic == "Basic " + base64.b64encode(b"u:p").decode()


async def test_identity_token_refreshes() -> None:
    server = TokenServer((200, b'{"access_token": "t"}'))
    await fetch_token(BEARER, "", Credentials(secret="identity"), server)
    assert server.requests[0].parameters["grant_type"] == "refresh_token"
    assert server.requests[0].parameters["refresh_token"] == "identity"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b""), "https://auth.example/token answered 500"),
        ((200, b"{}"), "answered without a token"),
        ((200, b"<html>"), "answered without a token"),
        ((200, b"[]"), "answered without a token"),
    ],
)
async def test_no_token_says_why(answer: tuple[int, bytes], reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        await fetch_token(BEARER, "", ANONYMOUS, TokenServer(answer))


async def test_renewal_happens_once_for_requests_side_by_side() -> None:
    server = TokenServer((200, b'{"token": "t"}'))
    authorizer = Authorizer(ANONYMOUS, "", server)
    challenge = 'Bearer realm="https://a"'
    assert await authorizer.renew("", challenge)
    assert await authorizer.renew("", challenge)
    assert authorizer.value == "Bearer t"
    assert len(server.requests) == 1


async def test_refused_password_is_not_tried_again() -> None:
    authorizer = Authorizer(Credentials("u", "p"), "", TokenServer())
    assert await authorizer.renew("", 'Basic realm="r"')
    assert not await authorizer.renew(authorizer.value, 'Basic realm="r"')


async def test_registry_token_is_sent_as_it_is() -> None:
    authorizer = Authorizer(Credentials(bearer="r"), "", TokenServer())
    assert authorizer.value == "Bearer r"
    assert not await authorizer.renew("Bearer r", 'Bearer realm="https://a"')
