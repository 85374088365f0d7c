"""The mapping as written, resolved against the API, the document and the hand-written Python.

Here each entry is resolved alone. What only shows when entries are compared (two writers of one
target, fields without a fate) is checked by ``rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from codegen import checks
from codegen.errors import Problems, SpecError
from codegen.model import Entry, Mapped, MappingFile, Message, Test
from codegen.paths import Paths
from codegen.resolve import back, items, keys, matches, targets
from codegen.resolve.scope import Scope
from codegen.rpc import Rpcs

_Result = TypeVar("_Result")


def resolve(
    message: Message,
    file: MappingFile,
    files: Mapping[str, MappingFile],
    paths: Paths,
    rpcs: Rpcs | None,
    problems: Problems,
) -> Mapped:
    """One message with all that its entries lead to.

    Faults go to ``problems`` and the faulty entries are skipped. ``files`` are all mapping files by
    message; ``rpcs`` is None if rpc.yaml could not be read.
    """
    alone_in_file = Scope(message, file, files, paths, rpcs)
    made = problems.attempt(lambda: items.of_file(alone_in_file))
    scope = replace(alone_in_file, items=made or ())
    readable = made is not None

    def tried(step: Callable[[Scope, Entry], _Result], entry: Entry) -> list[_Result]:
        try:
            return [step(scope, entry)]
        except SpecError as error:
            problems.take(error)
            return []

    def sound(entry: Entry) -> bool:
        return bool(tried(keys.check, entry))

    def tests(scope: Scope, entry: Entry) -> tuple[Test, ...]:
        return checks.tests(scope.message, entry, paths.api)

    fields = [file.entries[name] for name in message.fields if name in file.entries]
    fields = [entry for entry in fields if sound(entry)]
    alone = [entry for entry in file.targets.values() if sound(entry)]
    filters = problems.attempt(lambda: matches.is_filter(scope)) or False
    written = fields if file.writes and readable else []
    writes = [w for e in written for w in tried(targets.of_field, e)]
    writes += [w for e in alone if readable for w in tried(targets.of_target, e)]
    whole = len(writes) == len(written) + len(alone) and not file.faulty
    for item in scope.items if whole else ():
        problems.attempt(partial(items.check_complete, scope, item, tuple(writes)))
    return Mapped(
        message,
        file,
        tuple(writes),
        tuple(read for e in fields if file.gives for read in tried(back.of_field, e)),
        tuple(m for e in fields if filters for m in tried(matches.of_field, e)),
        tuple(t for e in fields if file.takes for ts in tried(tests, e) for t in ts),
        tuple(checks.descents(message, files)) if file.takes else (),
        scope.items,
    )
