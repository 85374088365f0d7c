"""The first process of a container: arguments, environment, directory, user."""

from __future__ import annotations

from collections.abc import Sequence

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import FailedPrecondition, InvalidArgument

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_LONGEST_PATH = 4095
"""Bytes that the kernel takes of a path: PATH_MAX, without the NUL at its end."""


def args(
    *, command: Sequence[str], args: Sequence[str], entrypoint: Sequence[str], cmd: Sequence[str]
) -> list[str]:
    """What is executed: the request's words, the image's where the request has none.

    As in Docker, a command replaces the image's entrypoint *and* its cmd, while args alone replace
    only the cmd. An entrypoint of one empty string is an image's way to say that it has none.
    """
    if command:
        return program([*command, *args], field="config.command")
    first = [] if list(entrypoint) == [""] else list(entrypoint)
    words = [*first, *(args or cmd)]
    if not words:
        raise InvalidArgument(
            "the image has no entrypoint and no cmd, so a command is needed", field="config.command"
        )
    return program(words, field="config.command")


def program(words: Sequence[str], *, field: str) -> list[str]:
    """``words``, which begin with a program's path or name.

    Raises InvalidArgument for one that is longer than any path. It could not be run, and runc says
    so with the path in its error. A shim does not read an error that fills a pipe: it waits for
    runc until the call's deadline, and so do all other commands of the pod and its stop.
    """
    _must_be_a_path(words[0], field)
    return list(words)


def _must_be_a_path(text: str, field: str) -> None:
    length = len(text.encode())
    if length > _LONGEST_PATH:
        raise InvalidArgument(
            f"a path may have {_LONGEST_PATH} bytes, and this one has {length}", field=field
        )


def sandbox_args(*, entrypoint: Sequence[str], cmd: Sequence[str]) -> list[str]:
    """What the pause image says."""
    words = [*entrypoint, *cmd]
    if not words:
        raise FailedPrecondition(
            "the pause image has neither entrypoint nor cmd; name another one as"
            " images.pinned_images.sandbox"
        )
    return words


def cwd(*, working_dir: str, image_working_dir: str) -> str:
    """The request's directory, else the image's, else the root; absolute, as runc wants it.

    Raises InvalidArgument for one that is longer than any path.
    """
    directory = working_dir or image_working_dir
    _must_be_a_path(directory, "config.working_dir")
    return directory if directory.startswith("/") else f"/{directory}"


def env(
    *,
    envs: Sequence[api_pb2.KeyValue],
    tty: bool,
    hostname: str,
    node_hostname: str,
    image_env: Sequence[str],
    device_env: Sequence[str],
) -> list[str]:
    """The environment, later writers over earlier ones: defaults, image, request, CDI devices.

    A pod on the node's network has no host name of its own, so it shows the node's. A value of
    the CRI is bytes; a spec is JSON, which holds text only, so what is not UTF-8 is replaced.
    """
    return _merged(
        DEFAULT_PATH,
        *(["TERM=xterm"] if tty else []),
        f"HOSTNAME={hostname or node_hostname}",
        *image_env,
        *(f"{one.key}={one.value.decode('utf-8', 'replace')}" for one in envs),
        *device_env,
    )


def sandbox_cwd(*, working_dir: str) -> str:
    """The pause image's directory, else the root."""
    return cwd(working_dir="", image_working_dir=working_dir)


def sandbox_env(*, env: Sequence[str]) -> list[str]:
    """The pause image's own, over a PATH to find its program in."""
    return _merged(DEFAULT_PATH, *env)


def user(*, uid: int, gid: int, additional_gids: Sequence[int]) -> types.User:
    """The user that was found in the image's user database."""
    return types.User(uid=uid, gid=gid, additionalGids=list(additional_gids))


def container_user(
    *, uid: int, gid: int, additional_gids: Sequence[int], device_gids: Sequence[int]
) -> types.User:
    """The same, with the groups that CDI devices add."""
    groups = dict.fromkeys((*additional_gids, *device_gids))
    return types.User(uid=uid, gid=gid, additionalGids=list(groups))


def _merged(*entries: str) -> list[str]:
    """One entry for each name, in the place where the name came first, with the last value.

    An entry without = takes the name out again, as an image may do.
    """
    by_name: dict[str, str] = {}
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if equals:
            by_name[name] = entry
        else:
            by_name.pop(name, None)
    return list(by_name.values())
