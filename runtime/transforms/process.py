"""The first process of a container: arguments, environment, working directory, user."""

from __future__ import annotations

from collections.abc import Sequence

from generated.oci import types
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.transforms.paths import LONGEST

_TERMINAL = "TERM=xterm"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def args(
    *, command: Sequence[str], args: Sequence[str], entrypoint: Sequence[str], cmd: Sequence[str]
) -> list[str]:
    """The command line: from the request, or from the image if the request has none.

    As in Docker, a command replaces the image's entrypoint *and* its cmd, while args alone replace
    only the cmd. An image sets its entrypoint to one empty string to say that it has none.
    """
    if command:
        return program([*command, *args], field="config.command")
    first = [] if list(entrypoint) == [""] else list(entrypoint)
    words = [*first, *(args or cmd)]
    if not words:
        raise InvalidArgument(
            "required, because the image has neither entrypoint nor cmd", field="config.command"
        )
    return program(words, field="config.command")


def program(words: Sequence[str], *, field: str) -> list[str]:
    """``words``, which begin with a program's path or name.

    Raises InvalidArgument for a program longer than any path. runc could not run it, and its error
    would contain the path. A shim does not read an error that fills a pipe: it waits for runc until
    the call's deadline, and so do all other commands of the pod and its stop.
    """
    _must_be_a_path(words[0], field)
    return list(words)


def _must_be_a_path(text: str, field: str) -> None:
    length = len(text.encode())
    if length > LONGEST:
        raise InvalidArgument(
            f"must be a path of at most {LONGEST} bytes, not {length}", field=field
        )


def sandbox_args(*, entrypoint: Sequence[str], cmd: Sequence[str]) -> list[str]:
    """The pause image's command line."""
    words = [*entrypoint, *cmd]
    if not words:
        raise FailedPrecondition(
            "the pause image has neither entrypoint nor cmd; set another one as"
            " images.pinned_images.sandbox"
        )
    return words


def cwd(*, working_dir: str, image_working_dir: str, base_cwd: str) -> str:
    """The request's directory, else the image's, else the root; absolute, as runc requires.

    Raises InvalidArgument for one that is longer than any path.
    """
    directory = working_dir or image_working_dir or base_cwd
    _must_be_a_path(directory, "config.working_dir")
    return directory if directory.startswith("/") else f"/{directory}"


def env(
    *,
    envs: Sequence[str],
    tty: bool,
    hostname: str,
    node_hostname: str,
    image_env: Sequence[str],
    device_env: Sequence[str],
    base_env: Sequence[str],
) -> list[str]:
    """The environment, later sources over earlier ones: base spec, defaults, image, request, CDI.

    A pod on the node's network has no host name of its own, so it shows the node's.
    """
    return _merged(
        *base_env,
        DEFAULT_PATH,
        *([_TERMINAL] if tty else []),
        f"HOSTNAME={hostname or node_hostname}",
        *image_env,
        *envs,
        *device_env,
    )


def command_env(env: Sequence[str], *, tty: bool) -> list[str]:
    """The environment of a command in a container: the container's own, but on a terminal that of
    the terminal, whatever the container's TERM is."""
    if not tty:
        return list(env)
    return [*(entry for entry in env if not entry.startswith("TERM=")), _TERMINAL]


def variable(*, key: str, value: bytes) -> str:
    """One variable. A value of the CRI is bytes; a spec is JSON, which holds text only, so what is
    not UTF-8 is replaced."""
    return f"{key}={value.decode('utf-8', 'replace')}"


def sandbox_cwd(*, working_dir: str) -> str:
    """The pause image's directory, else the root."""
    return cwd(working_dir="", image_working_dir=working_dir, base_cwd="")


def sandbox_env(*, env: Sequence[str]) -> list[str]:
    """The pause image's environment, and a default PATH to find its program."""
    return _merged(DEFAULT_PATH, *env)


def user(*, uid: int, gid: int, additional_gids: Sequence[int]) -> types.User:
    """The user found in the image's user database."""
    return types.User(uid=uid, gid=gid, additionalGids=list(additional_gids))


def container_user(
    *, uid: int, gid: int, additional_gids: Sequence[int], device_gids: Sequence[int]
) -> types.User:
    """The user, with the groups that CDI devices add."""
    groups = dict.fromkeys((*additional_gids, *device_gids))
    return types.User(uid=uid, gid=gid, additionalGids=list(groups))


def _merged(*entries: str) -> list[str]:
    """One entry per name, at the name's first position and with its last value.

    An entry without = removes the name, which images may do.
    """
    by_name: dict[str, str] = {}
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if equals:
            by_name[name] = entry
        else:
            by_name.pop(name, None)
    return list(by_name.values())
