"""CDI specs in YAML: plain values only, and no duplicate keys.

Loaded with the first such file, because a node without one does not need PyYAML.
"""

from __future__ import annotations

from typing import Any

import yaml

from runtime import text
from runtime.documents import DocumentError


def parsed(content: bytes) -> Any:
    """The document's value. Raises DocumentError for what is not such YAML."""
    try:
        return yaml.load(content, _Loader)
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise DocumentError(text.one_line(str(error), 200)) from error


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise DocumentError(f"line {line}: the key {key!r} occurs twice in one object")
        values = [self.construct_object(value, deep=deep) for _, value in node.value]
        return dict(zip(keys, values, strict=True))
