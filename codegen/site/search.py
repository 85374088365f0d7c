"""The data that pages load when they need it: for the search and the tables, and for the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from codegen.backwards import Link
from codegen.named import Named
from codegen.proto_diff import CLASSES
from codegen.site.facts import Row, RpcPart, Site
from codegen.site.targets import tops

_SHOWN = 8
"""How many tests, and how many requests, of one row are listed."""


def index(site: Site) -> str:
    """The data as a script, because a page that is opened from a file cannot fetch any.

    Messages are lists of their fields, fates and versions are numbers in the lists of them, and
    addresses are left to the script that reads it: it is loaded with every search.
    """
    fates = [fate for fate, _ in site.shares]
    versions = list(site.history.versions)
    lines = [
        f'"fates":{_json(fates)}',
        f'"versions":{_json(versions)}',
        '"rpcs":' + _lines([name, part.rpc.why] for name, part in site.rpcs.items()),
        '"messages":'
        + _lines(
            [name, *(_field(row, fates, versions) for row in part.fields)]
            for name, part in site.parts.items()
        ),
        '"targets":' + _lines([name, len(links)] for name, links in site.written.items()),
        '"sources":' + _lines(_linked(site, site.read)),
        '"functions":' + _lines(_linked(site, site.called)),
    ]
    return "window.INDEX={\n" + ",\n".join(lines) + "\n};\n"


def evidence(site: Site) -> str:
    """The tests and requests of each row, as numbers in the lists of both; a negative number is how
    many more there are."""
    rows: list[Row | RpcPart] = [row for part in site.parts.values() for row in part.rows]
    rows += site.rpcs.values()
    tests = sorted({t for one in rows for t in one.tests[:_SHOWN]})
    requests = sorted({r for one in rows for r in one.requests[:_SHOWN]})
    files: dict[str, list[list[Any]]] = {}
    for test in tests:
        files.setdefault(test.file, []).append([test.line, test.name])
    test_numbers = {test: number for number, test in enumerate(tests)}
    request_numbers = {request: number for number, request in enumerate(requests)}

    def numbers(one: Row | RpcPart) -> list[list[int]]:
        found = [
            [test_numbers[test] for test in one.tests[:_SHOWN]],
            [request_numbers[request] for request in one.requests[:_SHOWN]],
        ]
        for listed, every in zip(found, (one.tests, one.requests), strict=True):
            if len(every) > _SHOWN:
                listed.append(_SHOWN - len(every))
        return found if found[1] else found[:1]

    by_message = {
        name: {row.name: numbers(row) for row in part.rows if row.tests or row.requests}
        for name, part in site.parts.items()
    }
    by_rpc = {name: numbers(part) for name, part in site.rpcs.items()}
    lines = [
        '"tests":' + _lines(files.items()),
        '"requests":' + _lines(requests),
        '"messages":{\n'
        + ",\n".join(f"{_json(name)}:{_json(rows)}" for name, rows in by_message.items() if rows)
        + "\n}",
        f'"rpcs":{_json(by_rpc)}',
    ]
    return "window.EVIDENCE={\n" + ",\n".join(lines) + "\n};\n"


def changes(site: Site, listed: Iterable[Named]) -> str:
    """What changed between any two pinned versions.

    Each change is the number of its row among the ``listed`` ones of the page, or kind, subject,
    detail and what the subject is; then its class, and the pairs of versions as the numbers of the
    first and last older and of the first and last newer one.
    """
    numbers = {change: number for number, change in reversed(list(enumerate(listed)))}
    classes, kinds = list(CLASSES), ["", "message", "field", "rpc"]
    rows = (
        [
            (
                numbers[change]
                if change in numbers
                else [
                    *(change.kind, change.subject, change.detail),
                    kinds.index(site.subject(change.subject)[0]),
                ]
            ),
            classes.index(change.effect),
            *(number for box in one.boxes for number in box),
        ]
        for one in site.history.net
        for change in [one.change]
    )
    lines = [f'"classes":{_json(list(CLASSES.items()))}', '"changes":' + _lines(rows)]
    return "window.CHANGES={\n" + ",\n".join(lines) + "\n};\n"


def _linked(site: Site, named: Mapping[str, list[Link]]) -> Iterator[list[str]]:
    """A name, and the rows of its entries as ``Message#row``."""
    for name, links in named.items():
        rows = dict.fromkeys(f"{row.message}#{row.name}" for row in map(site.row, links))
        yield [name, *rows]


def _field(row: Row, fates: list[str], versions: list[str]) -> list[Any]:
    """Name, fate, version, reason, target or source, type if it is a message, first steps of the
    targets, rules; without what is empty at the end."""
    assert row.field is not None
    found: list[Any] = [
        row.name,
        fates.index(row.fate),
        versions.index(row.since) if row.since in versions else 0,
        row.why,
        row.place,
        row.field.message or "",
        " ".join(tops(row.targets)),
        " ".join(row.rule_names),
    ]
    while not found[-1]:
        found.pop()
    return found


def _lines(rows: Iterable[Any]) -> str:
    return "[\n" + ",\n".join(map(_json, rows)) + "\n]"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
