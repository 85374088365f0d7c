"""Credentials are sent to the right host in the right form, and nowhere else."""

from __future__ import annotations

import base64
import time

import pytest

from generated.cri import api_pb2
from generated.plans import plan_pull_image
from runtime.errors import CriError, InvalidArgument, Unauthenticated, Unavailable
from runtime.images.registry.auth import (
    ANONYMOUS,
    Authorizer,
    Challenge,
    Credentials,
    Secrets,
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


def said(**auth: str) -> Credentials:
    """The credentials of an ``AuthConfig``."""
    request = api_pb2.PullImageRequest(auth=api_pb2.AuthConfig(**auth))
    return credentials(plan_pull_image(request))


def test_secrets_are_not_shown_in_plans() -> None:
    request = api_pb2.PullImageRequest(
        auth=api_pb2.AuthConfig(username="u", password="hunter2", registry_token="")
    )
    plan = plan_pull_image(request)
    assert plan.registry_secret == "hunter2"
    assert "hunter2" not in repr(plan)


@pytest.mark.parametrize(
    ("auth", "meaning"),
    [
        ({}, ANONYMOUS),
        ({"username": "u", "password": "p"}, Credentials("u", "p")),
        ({"auth": AUTH}, Credentials("me", "pass:word")),
        ({"auth": AUTH[:5] + "\r\n" + AUTH[5:] + "\n"}, Credentials("me", "pass:word")),
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
    assert said(**auth) == meaning


@pytest.mark.parametrize("auth", ["!", base64.b64encode(b"nocolon").decode(), "/w==", "é"])
def test_malformed_auth_is_refused_without_repeating_it(auth: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        said(auth=auth)
    assert refused.value.field == "auth.auth"
    assert auth not in refused.value.message


def test_only_the_named_server_receives_the_credentials() -> None:
    hub = Credentials("u", "p", server="index.docker.io")
    assert hub.for_host("registry-1.docker.io") is hub
    assert hub.for_host("quay.io") is ANONYMOUS
    assert Credentials("u", "p").for_host("quay.io").username == "u"


def test_secrets_are_never_shown() -> None:
    who = Credentials("u", "hunter2", bearer="tok")
    shown = repr(who) + repr(TokenRequest("POST", "https://a", (("password", "hunter2"),), "tok"))
    assert "hunter2" not in shown
    assert "tok" not in shown


def test_secrets_are_hidden_in_every_form_in_which_they_are_sent() -> None:
    secrets = Secrets(Credentials("bob", 'SE KRET"PW', bearer="tok"))
    secrets.add("fetched-token")
    pair = base64.b64encode(b'bob:SE KRET"PW').decode()
    for said in ('SE KRET"PW', "SE%20KRET%22PW", "SE+KRET%22PW", r"SE KRET\"PW", pair, "tok"):
        assert secrets.hide(f"you sent {said}!") == "you sent [hidden]!"
    assert secrets.hide("Bearer fetched-token") == "Bearer [hidden]"
    assert Secrets().hide("nothing to hide") == "nothing to hide"


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
        ("Negotiate abc==, Basic", [Challenge("basic")]),
        (r'Basic realm="a \"b\" \\"', [Challenge("basic", 'a "b" \\')]),
        ('Basic realm="never closed', [Challenge("basic", "never closed")]),
        ('Basic realm="ends \\', [Challenge("basic", "ends ")]),
        ("é Basic ( ) realm = x", [Challenge("basic", "x")]),
    ],
)
def test_challenges_are_read(header: str, found: list[Challenge]) -> None:
    assert challenges(header) == found


@pytest.mark.parametrize(
    "header",
    [
        "a" * 30_000 + "!",
        "a=" * 15_000,
        '="' * 15_000,
        "a " * 15_000,
        'a="' + "\\" * 30_000,
        '"' * 30_000,
    ],
    ids=["word", "equals", "quotes", "words", "escapes", "marks"],
)
def test_reading_a_long_header_takes_no_longer_than_its_length(header: str) -> None:
    began = time.thread_time()  # time used by other processes does not count
    challenges(header)
    assert time.thread_time() - began < 0.5


async def test_several_scopes_are_asked_for_one_by_one() -> None:
    challenge = Challenge("bearer", "https://a", scope="repository:a:pull repository:b:pull")
    server = TokenServer((200, b'{"token": "t"}'), (400, b""), (200, b'{"token": "t"}'))
    await fetch_token(challenge, "repository:a:pull", ANONYMOUS, server)
    await fetch_token(challenge, "repository:a:pull", Credentials("u", "p"), server)
    by_get = (("scope", "repository:a:pull"), ("scope", "repository:b:pull"))
    assert server.requests[0].parameters == server.requests[2].parameters == by_get
    assert named(server.requests[1], "scope") == "repository:a:pull repository:b:pull"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Unauthenticated), (400, Unauthenticated), (429, Unavailable), (503, Unavailable)],
)
async def test_a_busy_token_server_is_no_refusal(status: int, kind: type[CriError]) -> None:
    with pytest.raises(TokenError) as failed:
        await fetch_token(BEARER, "", ANONYMOUS, TokenServer((status, b"")))
    assert failed.value.kind is kind


def test_invalid_server_address_names_its_field() -> None:
    with pytest.raises(InvalidArgument) as refused:
        said(identity_token="i", server_address="https://[")
    assert refused.value.field == "auth.server_address"


class TokenServer:
    """Responds as configured and records requests."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[TokenRequest] = []

    async def __call__(self, request: TokenRequest) -> tuple[int, bytes]:
        self.requests.append(request)
        return self.answers.pop(0)


def named(request: TokenRequest, name: str) -> str:
    """The one value of a parameter."""
    (value,) = (value for key, value in request.parameters if key == name)
    return value


async def test_anonymous_token_is_requested_by_get() -> None:
    server = TokenServer((200, b'{"token": "t"}'))
    assert await fetch_token(BEARER, "repository:a:pull", ANONYMOUS, server) == "t"
    (request,) = server.requests
    assert (request.method, request.basic) == ("GET", "")
    assert request.parameters == (("service", "reg"), ("scope", "repository:a:pull"))


async def test_password_is_sent_by_oauth() -> None:
    server = TokenServer((200, b'{"access_token": "t"}'))
    assert await fetch_token(BEARER, "", Credentials("u", "p"), server) == "t"
    (request,) = server.requests
    assert request.method == "POST"
    assert named(request, "grant_type") == "password"
    assert named(request, "password") == "p"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
async def test_server_without_post_is_asked_by_get(status: int) -> None:
    server = TokenServer((status, b""), (200, b'{"token": "t"}'))
    assert await fetch_token(BEARER, "", Credentials("u", "p"), server) == "t"
    assert server.requests[1].method == "GET"
    assert server.requests[1].basic == "Basic " + base64.b64encode(b"u:p").decode()


async def test_identity_token_refreshes() -> None:
    server = TokenServer((200, b'{"access_token": "t"}'))
    await fetch_token(BEARER, "", Credentials(secret="identity"), server)
    assert named(server.requests[0], "grant_type") == "refresh_token"
    assert named(server.requests[0], "refresh_token") == "identity"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, b""), "https://auth.example/token answered 500"),
        ((200, b"{}"), "answered without a token"),
        ((200, b"<html>"), "answered without a token"),
        ((200, b"[]"), "answered without a token"),
        ((200, b'{"token": 5}'), "answered without a token"),
        ((200, b'{"token": "a\\nb"}'), "answered without a token"),
        ((200, b"[" * 60_000), "answered without a token"),
    ],
)
async def test_missing_token_is_explained(answer: tuple[int, bytes], reason: str) -> None:
    with pytest.raises(TokenError, match=reason):
        await fetch_token(BEARER, "", ANONYMOUS, TokenServer(answer))


async def test_concurrent_requests_renew_the_token_once() -> None:
    server = TokenServer((200, b'{"token": "t"}'))
    authorizer = Authorizer(ANONYMOUS, "", server, Secrets())
    challenge = 'Bearer realm="https://a"'
    assert await authorizer.renew("", challenge)
    assert await authorizer.renew("", challenge)
    assert authorizer.value == "Bearer t"
    assert len(server.requests) == 1


async def test_refused_password_is_not_tried_again() -> None:
    authorizer = Authorizer(Credentials("u", "p"), "", TokenServer(), Secrets())
    assert await authorizer.renew("", 'Basic realm="r"')
    assert not await authorizer.renew(authorizer.value, 'Basic realm="r"')


async def test_registry_token_is_sent_as_it_is() -> None:
    authorizer = Authorizer(Credentials(bearer="r"), "", TokenServer(), Secrets())
    assert authorizer.value == "Bearer r"
    assert not await authorizer.renew("Bearer r", 'Bearer realm="https://a"')
