"""CNI configurations from Go-style templates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from runtime.cni import template as cni_template

CONTAINERD_EXAMPLE = """
{
  "name": "net", "cniVersion": "1.0.0",
  "plugins": [{
    "type": "bridge",
    "ipam": {
      "type": "host-local",
      "subnet": "{{.PodCIDR}}",
      "ranges": [
        {{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}
      ],
      "routes": [ {{- range $i, $r := .Routes }}{{ if $i }}, {{ end }}{"dst": "{{$r}}"}{{end -}} ]
    }
  }]
}
"""


def ipam(cidrs: list[str]) -> dict[str, object]:
    whole = json.loads(cni_template.filled(CONTAINERD_EXAMPLE, cidrs))
    found: dict[str, object] = whole["plugins"][0]["ipam"]
    return found


def test_one_family() -> None:
    found = ipam(["10.1.0.0/24"])
    assert found["subnet"] == "10.1.0.0/24"
    assert found["ranges"] == [[{"subnet": "10.1.0.0/24"}]]
    assert found["routes"] == [{"dst": "0.0.0.0/0"}]


def test_both_families() -> None:
    found = ipam(["10.1.0.0/24", "fd00::/64"])
    assert found["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]
    assert found["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]


def test_white_space_is_trimmed_only_where_asked() -> None:
    assert cni_template.filled("a {{.PodCIDR}} b", ["10.0.0.0/8"]) == "a 10.0.0.0/8 b"
    assert cni_template.filled("a {{- .PodCIDR -}} b", ["10.0.0.0/8"]) == "a10.0.0.0/8b"
    assert cni_template.filled("{{.PodCIDR}} {{- .PodCIDR}}", ["1.0.0.0/8"]) == "1.0.0.0/81.0.0.0/8"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{.Foo}}", "{{.Foo}} is not supported"),
        ("{{range .PodCIDRRanges}}x", "has no {{end}}"),
        ("{{range .Foos}}{{end}}", "range over .Foos; use one of PodCIDRRanges, Routes"),
    ],
)
def test_unsupported_template_syntax_is_named(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        cni_template.filled(template, ["10.0.0.0/8"])


def test_a_wrong_cidr_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0"):
        cni_template.filled("", ["10.0.0"])


def test_the_file_is_written_atomically_and_readable(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_text("{{.PodCIDR}}")
    written = cni_template.write(str(template), str(tmp_path / "net.d"), ["10.0.0.0/8"])
    assert written.read_text() == "10.0.0.0/8"
    assert written.stat().st_mode & 0o777 == 0o644
    assert list(written.parent.iterdir()) == [written]
