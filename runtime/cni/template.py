"""Write a CNI configuration from the node's template, once the kubelet has sent the pod CIDR.

Templates are written for containerd's CRI plugin, in Go's template language. Only what such
templates use is supported: ``{{.PodCIDR}}``, ``{{range $i, $x := .PodCIDRRanges}}`` or
``.Routes`` to ``{{end}}``, and in it ``{{$x}}``, ``{{.}}`` and ``{{if $i}}`` to ``{{end}}``;
``{{-`` and ``-}}`` trim white space.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime import regular_files
from runtime.linux.files import sync_directory, write_whole

FILE_NAME: Final = "10-containerd-net.conflist"

_TAG: Final = re.compile(r"(\s*)\{\{(-?)\s*(.*?)\s*(-?)\}\}(\s*)", re.S)
_RANGE: Final = re.compile(r"range\s+(?:(\$\w+)\s*,\s*)?(?:(\$\w+)\s*:=\s*)?\.(\w+)")
_DEFAULT_ROUTES: Final = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True)
class _Token:
    """Plain text, or a tag without its braces."""

    text: str
    is_tag: bool


def write(template: str, conf_dir: str, pod_cidrs: Sequence[str]) -> Path:
    """Fill in the file ``template`` and write the result into ``conf_dir``, atomically.

    Raises OSError, and ValueError for a CIDR or a template that cannot be understood.
    """
    text = filled(regular_files.read(template).decode(), pod_cidrs)
    target = Path(conf_dir, FILE_NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, text.encode(), mode=0o644)
    sync_directory(target.parent)
    return target


def filled(template: str, pod_cidrs: Sequence[str]) -> str:
    """The template's text for these pod CIDRs; a family with a CIDR gets its default route."""
    families = {ipaddress.ip_network(cidr, strict=False).version for cidr in pod_cidrs}
    lists = {
        "PodCIDRRanges": list(pod_cidrs),
        "Routes": [route for family, route in _DEFAULT_ROUTES.items() if family in families],
    }
    tokens = list(_tokens(template))
    out = list(_rendered(tokens, lists, {".PodCIDR": pod_cidrs[0]}))
    return "".join(out)


def _tokens(template: str) -> Iterator[_Token]:
    position = 0
    while tag := _TAG.search(template, position):
        before, trim_before, body, trim_after, after = tag.groups()
        yield _Token(template[position : tag.start()], is_tag=False)
        yield _Token("" if trim_before else before, is_tag=False)
        yield _Token(body, is_tag=True)
        # White space that is not trimmed here can be trimmed by the next tag, so it is kept for it.
        position = tag.end() if trim_after else tag.end() - len(after)
    yield _Token(template[position:], is_tag=False)


def _rendered(
    tokens: list[_Token], lists: Mapping[str, list[str]], names: Mapping[str, str]
) -> Iterator[str]:
    """Consumes ``tokens`` to their end."""
    while tokens:
        token = tokens.pop(0)
        if not token.is_tag:
            yield token.text
        elif token.text in names:
            yield names[token.text]
        elif loop := _RANGE.fullmatch(token.text):
            index, item, source = loop.groups()
            if source not in lists:
                raise ValueError(f"range over .{source}; use one of {', '.join(lists)}")
            body = _block(tokens, token)
            for number, value in enumerate(lists[source]):
                here = {**names, ".": value, item or ".": value, index or "$": str(number)}
                yield from _rendered(list(body), lists, here)
        elif token.text.startswith("if ") and token.text[3:].strip() in names:
            body = _block(tokens, token)
            if names[token.text[3:].strip()] not in ("", "0"):
                yield from _rendered(body, lists, names)
        else:
            raise ValueError(f"{{{{{token.text}}}}} is not supported")


def _block(tokens: list[_Token], opening: _Token) -> list[_Token]:
    """Take the tokens up to the ``end`` that closes ``opening``."""
    body: list[_Token] = []
    depth = 1
    while tokens:
        token = tokens.pop(0)
        if token.is_tag and token.text == "end":
            depth -= 1
            if not depth:
                return body
        elif token.is_tag and token.text.startswith(("range ", "if ")):
            depth += 1
        body.append(token)
    raise ValueError(f"{{{{{opening.text}}}}} has no {{{{end}}}}")
