"""``cri-codegen``: generates part of the server from the reviewed specification."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codegen import write
from codegen.errors import Place, Problems, SpecError

if TYPE_CHECKING:  # each command imports what it needs: importing everything takes half a second
    from codegen.generate import Translation
    from codegen.lifecycle import Lifecycle
    from codegen.rpc import Rpcs
    from codegen.write import Change


def _generate(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import project, verify, write

    if arguments.out is not None:
        return _generate_elsewhere(arguments, root)
    if arguments.api is not None:
        raise SpecError(
            "is generated beside the current version, not in its place",
            Place(arguments.option),
            "add --out with a folder",
        )
    output = project.read(root).output
    if verify.known_good(root):
        print(f"{output}/ is up to date")
        return 0
    recorded = _changes(root)
    write.apply(root / output, recorded)
    for change in recorded:
        print(f"{change.verb:6} {output}/{change.path}")
    print(f"{len(recorded)} files written" if recorded else f"{output}/ is up to date")
    _must_load(root)
    return 0


def _generate_elsewhere(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import generate, project, write

    folder, output = arguments.out, project.read(root).output
    if (root / output).resolve() in (folder.resolve(), *folder.resolve().parents):
        raise SpecError(f"is {output}/ itself, or in it", Place(str(folder)), "give another folder")
    whole = generate.load_project(root)
    if arguments.api is not None:
        whole = generate.at(whole, arguments.api, arguments.option)
    files = generate.outputs(whole)
    write.put(folder, files, generate.MANIFEST, "a generated package")
    api = whole.translation.api
    print(f"{api.name} {api.version}: {len(files)} files in {folder}")
    return 0


def _check(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import project, verify

    if arguments.against is not None:
        from codegen import diff

        unreasoned = diff.unreasoned(root, arguments.against)
        if unreasoned:
            raise SpecError.of(unreasoned)
    output = project.read(root).output
    if verify.known_good(root):
        return 0
    recorded = _changes(root)
    for change in recorded:
        print(change.diff())
    if recorded:
        print(
            f"{len(recorded)} files of {output}/ differ from what the spec generates: "
            + ", ".join(f"{change.path} ({change.verb})" for change in recorded),
            file=sys.stderr,
        )
        print("run: cri-codegen generate", file=sys.stderr)
        return 1
    _must_load(root)
    return 0


def _must_load(root: Path) -> None:
    """Raise SpecError if a generated module cannot be imported; remember a successful check."""
    from codegen import verify

    faults = verify.import_faults(root)
    if faults:
        raise SpecError.of(faults)
    verify.remember(root)


def _changes(root: Path) -> list[Change]:
    from codegen import generate, project, write

    outputs = generate.outputs(generate.load_project(root))
    return write.changes(root / project.read(root).output, outputs)


def _import(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import proto_import

    source = arguments.file
    if arguments.clients:
        texts = proto_import.clients(root, source)
    else:
        texts = proto_import.pin(root, source, arguments.version, replace=arguments.force)
    for name in proto_import.write(root, texts):
        print(name)
    return 0


def _stubs(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import generate, proto_import, undecided

    written = list(proto_import.write(root, undecided.stubs(root, generate.read_api(root))))
    for name in written:
        print(name)
    if not written:
        print("every field and RPC has an entry", file=sys.stderr)
    return 0


def _decide(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import decided, generate, load, mapping_file, proto_import, rpc

    problems = Problems()
    files, _ = mapping_file.read_all(root, problems)
    rpcs = problems.attempt(lambda: load.yaml_file(root, rpc.FILE))
    problems.stop_if_any()
    texts = decided.decide(root, generate.current_proto(root), files, rpcs, arguments.names)
    for name in proto_import.write(root, texts):
        print(name)
    return 0


def _diff(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import diff, project, proto_api, proto_diff, stubs, upstream

    old, new = arguments.old, arguments.new
    pinned, served = proto_api.pinned(root), project.read(root).api
    if old in pinned and new is None:
        new = stubs.current_version(root)
    others = [word for word in (old, new) if word not in pinned]
    if len(others) == 1:
        raise SpecError(
            f"is no pinned version of the {served.name}, and {new if old in others else old} is",
            Place(f"REVISION {others[0]!r}"),
            f"give two git revisions, or two of {', '.join(pinned)}",
        )
    if not others:
        protos = (proto_api.descriptor(served, v, pinned[v]) for v in (old, new))
        found = upstream.with_comments(proto_diff.changes(*protos), upstream.kept(pinned[new]))
    else:
        after = diff.at_revision(root, new) if new else diff.in_folder(root)
        found = diff.of_specifications(diff.at_revision(root, old), after)
    written = diff.as_json if arguments.json else diff.markdown
    print(written(old, new or "the working tree", found))
    return 0


def _explain(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import show, show_rpc

    found, rpcs, _ = read_all(root)
    told = show_rpc.explained(root, found.settings, rpcs, arguments.name) if rpcs else None
    names = [rpc.name for rpc in rpcs.all] if rpcs else []
    print(told or show.explain(found, arguments.name, names))
    return 0


def _review(arguments: argparse.Namespace, root: Path) -> int:
    from codegen import show

    if arguments.against is not None and arguments.out is None:
        raise SpecError(
            "is shown on a page of the site", Place("--against"), "add --out with a folder"
        )
    found, rpcs, machines = read_all(root)
    if arguments.out is None:
        print(show.review(found))
        return 0
    from codegen import diff
    from codegen.site import facts, folder
    from codegen.site.write import files

    against = None
    if arguments.against is not None:
        before = diff.at_revision(root, arguments.against)
        since = diff.of_specifications(before, diff.in_folder(root))
        against = arguments.against, tuple(since)
    folder.put(arguments.out, files(facts.gather(root, found, rpcs, machines, against)))
    print(arguments.out / "index.html")
    return 0


def read_all(root: Path) -> tuple[Translation, Rpcs | None, Lifecycle | None]:
    """The mapping, and the RPCs and the lifecycle if they can be read, even if it has faults:
    explain and review must work while it is being fixed."""
    from codegen import generate, lifecycle, rpc

    problems = Problems()
    api = generate.read_api(root)
    enums = {n: e.values for n, e in api.enums.items()}
    machines = problems.attempt(lambda: lifecycle.read(root, enums, problems, api.former))
    rpcs = problems.attempt(lambda: rpc.read(root, api, machines, problems))
    found = generate.translation(root, api, rpcs, problems, judged=False)
    if found is None:
        problems.stop_if_any()
        raise AssertionError("some files could not be read because of a fault")
    return found, rpcs, machines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cri-codegen", description=__doc__)
    parser.add_argument(
        "--root",
        type=_path,
        help="the project's root (default: the nearest folder above with spec/project.yaml)",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    made = commands.add_parser("generate", help="bring the generated package in line with spec/")
    made.add_argument(
        "--api",
        metavar="VERSION",
        help="a pinned version of the API, up to the current one: what newer ones added is left"
        " out; the option may also be named after the API's folder in spec/",
    )
    made.add_argument(
        "--out",
        type=_path,
        metavar="DIR",
        help="write the package there, and nothing else: a new folder, or one with such a package",
    )
    made.set_defaults(run=_generate, option="--api")

    checked = commands.add_parser(
        "check", help="fail, with a diff, if generate would change a file"
    )
    checked.add_argument(
        "--against",
        metavar="REVISION",
        help="a git revision: each change of the mapping since then that can break what runs must"
        " have its reason in the entry, under `changed:`",
    )
    checked.set_defaults(run=_check)

    taken = commands.add_parser("import", help="normalise a published API and pin it under spec/")
    taken.add_argument("file", type=_path, help="a descriptor set (.binpb) or a published .proto")
    target = taken.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--as", dest="version", metavar="VERSION", help="pin it as this version of the API"
    )
    target.add_argument(
        "--clients",
        action="store_true",
        help="write the protos of other APIs that spec/project.yaml lists under clients",
    )
    taken.add_argument(
        "--force", action="store_true", help="replace a pinned version by different content"
    )
    taken.set_defaults(run=_import)

    stubbed = commands.add_parser(
        "stubs",
        help="add an undecided entry for every field and RPC that has none; check refuses it"
        " until it is decided",
    )
    stubbed.set_defaults(run=_stubs)

    decided = commands.add_parser(
        "decide",
        help="record that a person decided about the parts of the API as they are now",
    )
    recorded = decided.add_mutually_exclusive_group(required=True)
    recorded.add_argument(
        "--all",
        action="store_true",
        help="everything, in a new project, which has no record yet",
    )
    recorded.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help="a field, as in Order.address, an RPC, as in Shop.Cancel, or all"
        " parts of a message, enum or service",
    )
    decided.set_defaults(run=_decide)

    compared = commands.add_parser(
        "diff", help="named changes and what each means, as Markdown or JSON"
    )
    compared.add_argument("old", help="a pinned version, or a git revision")
    compared.add_argument(
        "new",
        nargs="?",
        help="the same; default: the current version, or the working tree's spec/",
    )
    compared.add_argument("--json", action="store_true", help="as JSON")
    compared.set_defaults(run=_diff)

    explained = commands.add_parser(
        "explain", help="show what is decided about an RPC, a field or a target, and where"
    )
    explained.add_argument(
        "name",
        metavar="NAME",
        help="an RPC; a field, as in Order.address; or a target, source or function",
    )
    explained.set_defaults(run=_explain)

    reviewed = commands.add_parser(
        "review",
        help="list every entry on one line, and the fields not supported yet; or, with --out, write"
        " a site that shows each entry with its code, tests and history",
    )
    reviewed.add_argument(
        "--out",
        type=_path,
        metavar="DIR",
        help="the folder of the site, new or with an earlier site",
    )
    reviewed.add_argument(
        "--against",
        metavar="REVISION",
        help="a git revision: the site's page of changes also shows what changed in spec/ since",
    )
    reviewed.set_defaults(run=_review)
    return parser


def _path(word: str) -> Path:
    """A path of the command line. An empty one is a variable of a script that is not set, and not
    the current folder."""
    if not word:
        raise argparse.ArgumentTypeError("is empty; give a path")
    return Path(word)


def _root(given: Path | None) -> Path:
    """The folder ``given``, or the nearest one, from the current one upwards, that has a
    specification."""
    if given is not None:
        if not (given / "spec/project.yaml").is_file():
            raise SpecError(
                "has no spec/project.yaml",
                Place(f"--root {given}"),
                "give the folder in which spec/ is, or leave --root out",
            )
        return given
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "spec/project.yaml").is_file():
            return folder
    raise SpecError(
        "neither this folder nor one above it has spec/project.yaml",
        Place(str(here)),
        "change to the project's folder, or give it with --root",
    )


def _take_version(arguments: argparse.Namespace, words: list[str], root: Path) -> list[str]:
    """Take the version that is given by the name of the API's folder, as --api takes it; returns
    the other words."""
    from codegen import project

    option = f"--{project.read(root).api.folder}"
    parser = argparse.ArgumentParser("cri-codegen generate", add_help=False, allow_abbrev=False)
    parser.add_argument(option, dest="api", metavar="VERSION")
    known, others = parser.parse_known_args(words)
    if known.api is not None and arguments.api is not None:
        parser.error(f"--api and {option} mean the same; give one of them")
    if known.api is not None:
        arguments.api, arguments.option = known.api, option
    return others


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0 on success, 1 if the specification has a fault."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    run: Callable[[argparse.Namespace, Path], int] = arguments.run
    try:
        root = _root(arguments.root)
        if unknown and run is _generate:
            unknown = _take_version(arguments, unknown, root)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        with write.alone(root, reading=run not in (_generate, _import, _stubs, _decide)):
            return run(arguments, root)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the command again to complete it", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output (head, less) has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # of temporary files: the disk is full
        print(f"{error.filename or arguments.command}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    from codegen import script

    sys.exit(script.main())
