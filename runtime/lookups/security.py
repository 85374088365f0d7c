"""The seccomp files and AppArmor profiles of this node that a request names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import msgspec

from generated.oci import defaults, types
from runtime import regular_files
from runtime.documents import without_nulls
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.lookups.host import apparmor_parser
from runtime.steps import threads
from runtime.transforms import apparmor, security
from runtime.transforms.facts import Security

_LOADED_PROFILES = "/sys/kernel/security/apparmor/profiles"
_APPARMOR_FILES = Path("/etc/apparmor.d")
_OWN_PROFILE = Path("/proc/self/attr/current")
_PARSER_LIMIT: Final = 30.0
"""Seconds for apparmor_parser to compile and load the default profile; it takes less than one."""


async def look_up(
    seccomp_file: str, *, apparmor_name: str = "", default_apparmor: bool = False
) -> Security:
    """Read and load the profiles that a plan names; no I/O if there are none.

    ``seccomp_file`` is a path on the node, ``apparmor_name`` a profile that must be loaded; "" for
    none. ``default_apparmor``: whether the server's own AppArmor profile is needed.
    """
    if default_apparmor:
        await load_default_apparmor()
    if not seccomp_file and not apparmor_name:
        return Security()
    return await threads.HOST_PATHS.run_at(
        [seccomp_file] if seccomp_file else [],
        lambda: Security(
            localhost_seccomp=read_seccomp(seccomp_file) if seccomp_file else None,
            localhost_apparmor_loaded=bool(apparmor_name)
            and apparmor_name in loaded_apparmor_profiles(),
        ),
    )


def read_seccomp(path: str) -> types.LinuxSeccomp:
    """The seccomp profile in the file ``path``; raises InvalidArgument if it is invalid.

    A profile is a JSON object (LinuxSeccomp of the OCI runtime spec). It must have a default
    action, because otherwise it would filter nothing.
    """
    field = "config.linux.security_context.seccomp.localhost_ref"
    try:
        content = json.loads(regular_files.read(path))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        msgspec.convert(without_nulls(content), types.LinuxSeccomp)  # are the types right
        profile = types.LinuxSeccomp.from_dict(content)
        if not profile.defaultAction:
            raise ValueError("it has no defaultAction, such as SCMP_ACT_ERRNO")
    except OSError as error:
        raise InvalidArgument(f"seccomp profile {path}: {error.strerror}", field=field) from error
    except RecursionError as error:
        raise InvalidArgument(f"{path}: it is nested too deeply", field=field) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgument(
            f"{path} is not a seccomp profile of the OCI runtime spec: {error}", field=field
        ) from error
    return profile


def loaded_apparmor_profiles(path: str = _LOADED_PROFILES) -> frozenset[str]:
    """The names of the loaded profiles; empty on a node without AppArmor."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            # each line is "name (mode)", and a name may have spaces
            return frozenset(line.rpartition(" (")[0] for line in file)
    except FileNotFoundError:
        return frozenset()


async def load_default_apparmor() -> None:
    """Load the default AppArmor profile into the kernel, unless it is loaded already.

    Raises FailedPrecondition, with the remedy, if that fails or takes too long.
    """
    if security.DEFAULT_APPARMOR_PROFILE in await threads.CGROUPS.run(loaded_apparmor_profiles):
        return
    profile = await threads.CGROUPS.run(_default_profile)
    try:
        parser = await asyncio.create_subprocess_exec(
            apparmor_parser() or "apparmor_parser",
            "--replace",
            "--skip-cache",  # a profile from standard input is never in it
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise _not_loaded("apparmor_parser is not installed any more") from error
    try:
        async with asyncio.timeout(_PARSER_LIMIT):
            _, complaint = await parser.communicate(profile.encode())
    except TimeoutError as error:
        raise _not_loaded(f"apparmor_parser did not end within {_PARSER_LIMIT:g} s") from error
    finally:
        if parser.returncode is None:
            parser.kill()
    if parser.returncode != 0:
        raise _not_loaded(complaint.decode(errors="replace").strip())


def _not_loaded(reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"cannot load the AppArmor profile {security.DEFAULT_APPARMOR_PROFILE}: {reason}; "
        "install the apparmor package, or set disable_apparmor = true"
    )


def _default_profile() -> str:
    """The default AppArmor profile in a form that this node can load."""
    try:
        own = _OWN_PROFILE.read_text(errors="replace")
    except OSError:  # another security module, or none
        own = ""
    return apparmor.default_profile(
        defaults.APPARMOR_PROFILE,
        present=[name for name in apparmor.INCLUDED if (_APPARMOR_FILES / name).exists()],
        confined_by=apparmor.profile_of_process(own),
    )
