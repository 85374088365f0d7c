"""The command ``cri-codegen``; it also starts where its packages are not installed."""

from __future__ import annotations

import gc
import os
import sys

_OURS = ("codegen", "generated")


def _read_and_write_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: the files of a
    specification are UTF-8, whatever the locale is."""
    if sys.getfilesystemencoding() != "utf-8":
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**os.environ, "PYTHONUTF8": "1"})


def _have_streams() -> None:
    """Open what the caller has closed, or the first files to be opened would be the output; and
    write what the terminal cannot show in another form."""
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        stream = getattr(sys, name)
        if stream is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
        elif mode == "w":
            stream.reconfigure(errors="backslashreplace")


def main() -> int:
    """Run the generator, or name the extra that installs what is missing."""
    _read_and_write_utf8()
    _have_streams()
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
