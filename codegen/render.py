"""Renders the templates over the model: {path under generated/: text}, without touching a disk.

A template's path is its output's path. ``%message`` in it stands for one file per message, ``%service``
for one per service; a name that begins with ``_`` is a partial.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import black
import jinja2

from codegen.model import Kind, OciField, python_type

TEMPLATES = Path(__file__).parent / "templates"
_MODE = black.Mode(line_length=100, target_versions={black.TargetVersion.PY311})


@dataclass(frozen=True, slots=True)
class Job:
    """One output of one template: the values for the ``%words`` of its path and its variables."""

    words: Mapping[str, str]
    variables: Mapping[str, Any]


def render(jobs: Mapping[str, Iterable[Job]], shared: Mapping[str, Any]) -> dict[str, str]:
    """Every output of every template.

    ``jobs`` says what fills each template whose path has a ``%word``; the others are rendered
    once. ``shared`` is known to all. Python is formatted by black.
    """
    environment = _environment()
    files: dict[str, str] = {}
    for template in template_names():
        made = jobs[template] if "%" in template else [Job({}, {})]
        for job in made:
            path = _filled(template.removesuffix(".j2"), job.words)
            text = environment.get_template(template).render(
                template=template, **shared, **job.variables
            )
            files[path] = formatted(text) if path.endswith(".py") else text.strip() + "\n"
    return files


def template_names() -> list[str]:
    """Every template that makes an output."""
    return sorted(
        path.relative_to(TEMPLATES).as_posix()
        for path in TEMPLATES.rglob("*.j2")
        if not path.name.startswith("_")
    )


def formatted(text: str) -> str:
    """Python as black writes it, for the line length of the project."""
    return black.format_str(text, mode=_MODE)


def _filled(path: str, words: Mapping[str, str]) -> str:
    return re.sub(r"%(\w+)", lambda match: words[match[1]], path)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "docstring": docstring,
        "factory": _factory,
        "given": _given,
        "local": local_name,
        "taken": _taken,
    }
    return environment


def docstring(text: str) -> str:
    """``text`` made safe inside a docstring's quotes."""
    return text.replace("\\", "\\\\").replace('"""', "'''").rstrip('"')


def local_name(name: str) -> str:
    """A local variable for an OCI key: ``cgroupsPath`` -> ``cgroups_path``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _factory(kind: Kind) -> str:
    return {"list": "list", "map": "dict"}.get(kind.name) or f"lambda: {python_type(kind)}()"


def _taken(part: OciField) -> str:
    """The expression that takes a key out of decoded JSON ``rest``."""
    if part.required and part.kind.scalar:
        return f'rest.pop("{part.name}")'
    value = f'rest.pop("{part.name}", None)'
    match part.kind.name:
        case "oci":
            return f"{part.kind.ref}.from_dict({value})"
        case "list" if part.kind.of[0].name == "oci":
            return f"[{part.kind.of[0].ref}.from_dict(item) for item in {value} or ()]"
        case "map" if part.kind.of[1].name == "oci":
            items = f"({value} or {{}}).items()"
            return f"{{key: {part.kind.of[1].ref}.from_dict(item) for key, item in {items}}}"
        case "list":
            return f"list({value} or ())"
        case "map":
            return f"dict({value} or {{}})"
    return value


def _given(part: OciField) -> str:
    """The expression that gives an attribute back as decoded JSON."""
    if part.kind.scalar:
        return f"self.{part.attribute}"
    match part.kind.name, part.kind.of[-1].name:
        case "list", "oci":
            return f"[item.to_dict() for item in self.{part.attribute}]"
        case "map", "oci":
            return f"{{key: item.to_dict() for key, item in self.{part.attribute}.items()}}"
        case "map", _:
            return f"dict(self.{part.attribute})"
    return f"list(self.{part.attribute})"
