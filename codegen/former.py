"""What older pinned versions of the API had, and under which name the current one has it.

After a move to a new version, words in ``spec/`` and in hand-written code are not misspelt but old.
What upstream renamed is told with its new name, wherever the old one stands.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from codegen import proto_diff


class Former:
    """Names of older versions; the comparison is made when the first name is looked for, because
    a specification without faults needs none."""

    def __init__(
        self,
        current: FileDescriptorProto | None = None,
        version: str = "",
        name: str = "API",
        older: Mapping[str, FileDescriptorProto] | None = None,
    ) -> None:
        """``older`` are the older versions of the same API, oldest first."""
        self._current, self._version, self._name = current, version, name
        self._older = dict(reversed(list((older or {}).items())))
        self._known: dict[str, frozenset[str]] = {}
        self._names_now: dict[str, Mapping[str, str]] = {}

    def now(self, path: str) -> str | None:
        """The path that ``path`` of the newest version that had it has now; None if it was not
        renamed. A path is that of a message, enum, field, value or RPC, as in ``Order.lines``."""
        version = self._last(path)
        return self._renamed(version).get(path) if version is not None else None

    def was(self, path: str) -> str | None:
        """The path that ``path`` had in the newest older version; None if it was not renamed."""
        renamed = self._renamed(next(iter(self._older))) if self._older else {}
        return next((was for was, now in renamed.items() if now == path), None)

    def had(self, path: str) -> bool:
        """Whether an older version has ``path``."""
        return self._last(path) is not None

    def renamed_in(self, owner: str) -> dict[str, str]:
        """{name: earlier name} of what was renamed within a message, enum or service."""
        if not self._older:
            return {}
        renamed = self._renamed(next(iter(self._older)))
        return {
            now.rpartition(".")[2]: was.rpartition(".")[2]
            for was, now in renamed.items()
            if now.rpartition(".")[0] == owner
        }

    def hint(self, path: str) -> str | None:
        """What became of ``path``; None if no older version has it."""
        version = self._last(path)
        if version is None:
            return None
        now = self._renamed(version).get(path)
        if now is None:
            return f"{self._name} {version} has it; see cri-codegen diff {version} {self._version}"
        same_owner = now.rpartition(".")[0] == path.rpartition(".")[0]
        return f"renamed: it is now {now.rpartition('.')[2] if same_owner else now}"

    def _last(self, path: str) -> str | None:
        """The newest older version that has ``path``."""
        return next((v for v in self._older if path in self._names(v)), None)

    def _names(self, version: str) -> frozenset[str]:
        if version not in self._known:
            self._known[version] = proto_diff.names(self._older[version])
        return self._known[version]

    def _renamed(self, version: str) -> Mapping[str, str]:
        if version not in self._names_now:
            assert self._current is not None
            self._names_now[version] = proto_diff.renamed(self._older[version], self._current)
        return self._names_now[version]
