"""The command ``cri-codegen``; it also starts where its packages are not installed."""

from __future__ import annotations

import gc
import os
import sys

_OURS = ("codegen", "generated")


def main() -> int:
    """Run the generator, or name the extra that installs what is missing."""
    gc.disable()  # garbage collection costs a fifth of the time: the syntax trees live to the end
    try:
        from codegen.__main__ import main as run

        status = run()
    except ModuleNotFoundError as error:  # raised at once, or when a command needs it
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        print(
            f"cri-codegen needs {error.name}, which the server does not;"
            " install the extra codegen: pip install 'cri-containerd[codegen]'"
            " (in a checkout: pip install '.[codegen]')",
            file=sys.stderr,
        )
        return 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the reader of the output has exited
        status = 1
    os._exit(status)  # freeing all objects one by one would take a tenth of the time
