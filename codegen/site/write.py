"""The site as {path: text}, without disk access."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codegen import diff, mapping_file
from codegen.named import Named
from codegen.site import lanes, search, targets
from codegen.site.facts import FATES, Site
from codegen.site.urls import Urls

if TYPE_CHECKING:
    import jinja2

_HERE = Path(__file__).resolve().parent
_STATIC = ("style.css", "site.js", "icon.svg")
_NAVIGATION = (
    ("index", "Overview"),
    ("fields", "Fields"),
    ("rpcs", "RPCs"),
    ("targets", "Targets"),
    ("lifecycle", "Lifecycle"),
    ("changes", "Changes"),
)
_WHY = re.compile(
    r"^(?P<key>  why: )(?:>\n(?P<folded>(?:    \S.*(?:\n|\Z))+)|(?P<plain>[^>|\"'].*)(?:\n|\Z))",
    re.MULTILINE,
)
"""A reason in an entry, as a folded or as a plain text."""
_NEEDLESS = re.compile(r"\n(?=</|<(?:dt|dd|p|dl|ul|pre|h2|h3|details)\b)")
"""Ends of lines before what begins a line of its own anyway."""
_WHOLE = re.compile(r"(<pre.*?</pre>)", re.DOTALL)
"""Text whose white space counts."""


def files(site: Site) -> dict[str, str]:
    """Every file of the site."""
    made = {name: (_HERE / "static" / name).read_text() for name in _STATIC}
    made["index.js"] = search.index(site)
    made["evidence.js"] = search.evidence(site)
    made["changes.js"] = search.changes(site, _listed(site))
    made["style.css"] += _strips(site)
    made |= dict(_pages(site))
    return dict(sorted(made.items()))


def _pages(site: Site) -> Iterator[tuple[str, str]]:
    page = partial(_page, site)
    yield page("index.html", "overview")
    yield page("fields.html", "fields", facets=_facets(site))
    yield page("rpcs.html", "rpcs")
    yield page("targets.html", "targets", tree=targets.tree(site.links_written))
    if site.lifecycle is not None:
        drawings = {m.noun: lanes.drawing(m) for m in site.lifecycle.machines}
        yield page("lifecycle.html", "lifecycle", drawings=drawings)
    yield page("changes.html", "changes", classes=diff.CLASSES)
    for name, part in site.parts.items():
        yield page(f"message/{name}.html", "message", part=part)
    for name, rpc in site.rpcs.items():
        yield page(f"rpc/{name}.html", "rpc", part=rpc)


def _listed(site: Site) -> Iterator[Named]:
    """The changes between versions in the order of their rows on the page."""
    for step in reversed(site.history.steps):
        for effect in diff.CLASSES:
            yield from (change for change in step.changes if change.effect == effect)


def _page(site: Site, path: str, template: str, **variables: Any) -> tuple[str, str]:
    navigation = [
        (page, label) for page, label in _NAVIGATION if page != "lifecycle" or site.lifecycle
    ]
    to = Urls(path.rpartition("/")[0])
    text = (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(site=site, to=to, here=path, template=template, navigation=navigation, **variables)
    )
    return path, _dense(text)


def _dense(html: str) -> str:
    """Without indentation and blank lines, except in preformatted text, and there without escapes
    that only attributes need."""
    parts = _WHOLE.split(html)
    parts[::2] = [_NEEDLESS.sub("", re.sub(r"\s*\n\s*", "\n", part)) for part in parts[::2]]
    parts[1::2] = [_plain(part) for part in parts[1::2]]
    return "".join(parts).strip() + "\n"


def _plain(code: str) -> str:
    return code.replace("&#34;", '"').replace("&#39;", "'").replace("&gt;", ">")


def _facets(site: Site) -> Mapping[str, list[str]]:
    """The values by which the table of fields can be filtered."""
    rows = site.rows
    return {
        "since": list(site.history.versions),
        "message": [name for name, part in site.parts.items() if part.fields],
        "target": sorted({top for row in rows for top in targets.tops(row.targets)}),
        "rule": sorted({name for row in rows for name in row.rule_names}),
    }


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "word": _word,
        "percent": _percent,
        "reason": reason,
        "anchors": anchors,
        "short": _short,
    }
    return environment


def _word(fate: str) -> str:
    """The class of a fate in the style sheet."""
    return next(known for known in FATES if fate.startswith(known)).partition(" ")[0]


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.4g}" if whole else "0"


@dataclass(frozen=True, slots=True)
class Reason:
    """An entry whose reason is told once: above the entry, in lines as they are written there."""

    text: str
    """The reason."""
    entry: str
    """The entry, with ``…`` in place of its reason; site.js fills it in."""


def reason(why: str, entry: str) -> Reason:
    """The reason ``why`` and the entry around it; the whole entry if it writes it otherwise."""
    written = _WHY.search(entry)
    if written is None:
        return Reason(why, entry)
    lines = [line.strip() for line in (written["folded"] or written["plain"]).splitlines()]
    if " ".join(lines) != why.strip():
        return Reason(why, entry)
    mark = f"{written['key']}{'>' if written['folded'] else ''}…"
    rest = entry[written.end() :]
    return Reason("\n".join(lines), entry[: written.start()] + mark + ("\n" + rest if rest else ""))


def anchors(changes: Iterable[Named], prefix: str) -> dict[Named, str]:
    """The fragment of each change: its subject; of several with one subject, also their kinds, and
    of several with one kind their numbers."""
    every = list(dict.fromkeys(changes))
    subjects = Counter(change.subject for change in every)
    kinds: Counter[tuple[str, str]] = Counter()
    found = {}
    for change in every:
        kinds[change.subject, change.kind] += 1
        number = kinds[change.subject, change.kind]
        parts = [prefix, change.subject]
        parts += [change.kind] if subjects[change.subject] > 1 else []
        parts += [str(number)] if number > 1 else []
        found[change] = ":".join(parts)
    return found


def _short(place: str, site: Site) -> str:
    """A place without the folder that all places of its kind are in."""
    return place.removeprefix(f"{mapping_file.FOLDER}/").removeprefix(f"{site.settings.output}/")


def _strips(site: Site) -> str:
    """The style of ``.sN``: a strip of all versions, of which the first N are empty."""
    count = len(site.history.versions)
    rules = [f".s{n}{{--first:{n / count:.4f}}}" for n in range(count)]
    return f":root{{--versions:{count}}}\n" + "\n".join(rules) + "\n"
