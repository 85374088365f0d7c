"""The command ``cri-codegen``, also where only the server is installed: without its packages."""

from __future__ import annotations

import gc
import sys

_OURS = ("codegen", "generated")


def main() -> int:
    """Run the generator, or say which extra brings what it lacks."""
    gc.disable()  # a fifth of the time goes into searches of syntax trees, which live to the end
    try:
        from codegen.__main__ import main as run

        return run()
    except ModuleNotFoundError as error:  # at once, or when a command comes to need it
        if (error.name or "").partition(".")[0] in _OURS:
            raise
        print(
            f"cri-codegen needs {error.name}, which the server does not;"
            " install the extra codegen: pip install 'cri-containerd[codegen]'"
            " (in a checkout: pip install '.[codegen]')",
            file=sys.stderr,
        )
        return 1
