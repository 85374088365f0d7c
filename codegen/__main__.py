"""``cri-codegen``: from the reviewed specification to the generated part of the server."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from codegen import proto_import
from codegen.errors import SpecError, SpecErrors


def _import(arguments: argparse.Namespace, root: Path) -> int:
    source = Path(arguments.file)
    if arguments.containerd:
        texts = {
            f"spec/containerd/{name}.proto": text
            for name, text in proto_import.containerd(source).items()
        }
    else:
        texts = {f"spec/cri/{arguments.version}.proto": proto_import.cri(source)}
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cri-codegen", description=__doc__)
    parser.add_argument(
        "--root", type=Path, default=Path(), help="the project's root (default: here)"
    )
    commands = parser.add_subparsers(dest="command", required=True)

    taken = commands.add_parser("import", help="pin a published API under spec/, normalised")
    taken.add_argument("file", help="a descriptor set (.binpb) or a published .proto")
    target = taken.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--as", dest="version", metavar="VERSION", help="write spec/cri/VERSION.proto"
    )
    target.add_argument(
        "--containerd", action="store_true", help="write the containerd services in use"
    )
    taken.set_defaults(run=_import)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all is well, 1 when the specification is at fault."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Path], int] = arguments.run
    try:
        return run(arguments, arguments.root)
    except (SpecError, SpecErrors) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
