"""The default AppArmor profile, adapted to the node."""

from __future__ import annotations

from collections.abc import Collection

INCLUDED = ("abi/3.0", "tunables/global", "abstractions/base")
"""Files of /etc/apparmor.d that the profile includes; not every node has all (AppArmor 2 has no
abi)."""

_WITHOUT_TUNABLES = "@{PROC}=/proc/"
_FIRST_SIGNAL_RULE = "  signal (receive) peer=unconfined,"


def default_profile(profile: str, *, present: Collection[str], confined_by: str) -> str:
    """The text of ``profile`` (spec/oci/apparmor.profile) without includes that the node lacks.

    ``present`` is the subset of INCLUDED that exists. ``confined_by`` is the profile of this
    process, "" if it is unconfined: a container must accept signals from it, or it could not be
    stopped.
    """
    missing = {f"<{name}>" for name in INCLUDED if name not in present}
    lines = []
    for line in profile.splitlines():
        if not any(name in line for name in missing):
            lines.append(line)
        elif "<tunables/global>" in line:
            # the only variable that the profile uses from it
            lines.append(_WITHOUT_TUNABLES)
        if line == _FIRST_SIGNAL_RULE and confined_by:
            lines.append(f'  signal (receive) peer="{confined_by}",')
    return "\n".join(lines) + "\n"


def profile_of_process(current: str) -> str:
    """The profile in ``current``, the text of /proc/<pid>/attr/current; "" if unconfined."""
    name = current.rstrip("\0\n").rpartition(" (")[0]
    return "" if name == "unconfined" else name
