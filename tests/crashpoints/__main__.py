"""``python -m tests.crashpoints [VERB]``: every point, or those of operations with this prefix."""

from __future__ import annotations

import sys
import traceback

from .points import VERBS, check, points, quiet


def main() -> int:
    quiet()
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    verbs = tuple(verb for verb in VERBS if verb.name.startswith(wanted))
    count = clean = 0
    for point in points(verbs):
        count += 1
        try:
            check(point)
        except Exception as error:
            kind = type(error).__name__
            print(f"{point}: {kind}: {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        else:
            clean += 1
    print(f"{count} points, {clean} clean")
    return 0 if count == clean else 1


if __name__ == "__main__":
    sys.exit(main())
