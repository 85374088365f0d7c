"""``nox -s node``: the demo and the e2e tests on a Debian 13 machine under QEMU.

``-- COMMAND`` runs another command there, in a copy of this checkout. Programs that sessions look
for on PATH are copied if they exist here: crictl, critest and kubelet.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .machine import PROJECT, Machine

PREPARE = (
    "cp -rT /checkout /root/project && cd /root/project && touch .venv/.installed"
    " && export PATH=$PATH:/programs"
)
PROGRAMS = ("crictl", "critest", "kubelet")
DEFAULT = "./dev demo && ./dev test tests/e2e"


def main() -> int:
    machine = Machine(PROJECT / "build" / "node")
    machine.build()
    command = " ".join(sys.argv[1:]) or DEFAULT
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as programs:
        for found in filter(None, map(shutil.which, PROGRAMS)):
            shutil.copy2(found, programs)
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT,
            capture_output=True,
            check=True,
        ).stdout.split(b"\0")
        for name in filter(None, (raw.decode() for raw in tracked)):
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if (PROJECT / name).exists():
                shutil.copy2(PROJECT / name, target)
        return machine.run(
            ["sh", "-c", f"{PREPARE} && {command}"],
            shares={Path("/checkout"): Path(folder), Path("/programs"): Path(programs)},
        )


if __name__ == "__main__":
    sys.exit(main())
