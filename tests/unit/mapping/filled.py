"""Records and messages in which every value says where it is, so that an answer or a spec shows
what each of its fields comes from.

A text is its own path, a number is derived from the path. ``Made`` makes the values: in the variant
``full`` everything is set, in ``half`` every other boolean is false, and some optional values are
absent, ``unset`` has what an empty message or a new record has.
"""

from __future__ import annotations

import dataclasses
import enum
import types as python_types
import typing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types

_NAMES = {
    "api_pb2": api_pb2,
    "types": types,
    "ContainerState": ContainerState,
    "SandboxState": SandboxState,
    "Sequence": Sequence,
}


def number(path: str) -> int:
    """A number between 2 and 1000001 that only this path has."""
    return zlib.crc32(path.encode()) % 1_000_000 + 2


def _is_map(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


@dataclass(frozen=True)
class Made:
    """Makes the values of one variant."""

    variant: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """By path, or by ``Message.field`` or ``Class.field``: values that must have a meaning."""
    without: frozenset[str] = frozenset()
    """Fields of messages that stay unset."""

    def record(self, kind: type, path: str) -> Any:
        """A record of facts.py or of readings.py."""
        if self.variant == "unset":
            return self._unset(kind, path)
        hints = typing.get_type_hints(kind, localns=_NAMES)
        return kind(
            **{
                one.name: (
                    self._truth(index)
                    if hints[one.name] is bool and f"{kind.__name__}.{one.name}" not in self.values
                    else self._value(
                        hints[one.name], f"{path}.{one.name}", f"{kind.__name__}.{one.name}"
                    )
                )
                for index, one in enumerate(dataclasses.fields(kind))
                if one.init and one.name not in ("extra", "config_json")
            }
        )

    def _unset(self, kind: type, path: str) -> Any:
        hints = typing.get_type_hints(kind, localns=_NAMES)
        return kind(
            **{
                one.name: self._nothing(
                    hints[one.name], f"{path}.{one.name}", f"{kind.__name__}.{one.name}"
                )
                for one in dataclasses.fields(kind)
                if f"{kind.__name__}.{one.name}" in self.values
                or (
                    one.default is dataclasses.MISSING
                    and one.default_factory is dataclasses.MISSING
                )
            }
        )

    def _truth(self, index: int) -> bool:
        """The value of the boolean that is this field of its message or record; in ``half``, those
        of neighbours differ."""
        return self.variant == "full" or bool(index % 2)

    def _nothing(self, hint: Any, path: str, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        origin = typing.get_origin(hint)
        if origin in (typing.Union, python_types.UnionType):
            return None
        if origin is not None:
            return {} if _is_map(origin) else ()
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return next(iter(hint))
        if dataclasses.is_dataclass(hint):
            return self._unset(hint, path)  # type: ignore[arg-type]
        return hint() if isinstance(hint, type) else 0

    def _value(self, hint: Any, path: str, name: str) -> Any:
        for key in (path, name):
            if key in self.values:
                return self.values[key]
        origin, inside = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, python_types.UnionType):
            absent = self.variant == "half" and number(path) % 2
            return None if absent else self._value(inside[0], path, name)
        if _is_map(origin):
            return {f"{path} key": self._value(inside[1], f"{path} value", name)}
        if origin is not None:
            two = [self._value(inside[0], f"{path}[{i}]", name) for i in range(2)]
            return tuple(two) if origin is tuple else two
        if not isinstance(hint, type):
            return number(path) if hint is not object else path
        if dataclasses.is_dataclass(hint):
            return self.record(hint, path)
        if issubclass(hint, Message):
            return self.message(hint, path)
        if issubclass(hint, enum.Enum):
            return list(hint)[-1]
        if hint in (int, float):
            return hint(number(path))
        if hint is bytes:
            return path.encode()
        return path

    def message(self, kind: Any, path: str = "") -> Any:
        """A message of the CRI."""
        made = kind()
        if self.variant == "unset":
            return made
        for one in made.DESCRIPTOR.fields:
            if one.full_name.removeprefix("runtime.v1.") in self.without:
                continue
            self._fill(made, one, f"{path}.{one.name}" if path else one.name)
        return made

    def alone(self, kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """Messages with one field set, and the path of the field. An item of a list is whole."""
        for one in kind.DESCRIPTOR.fields:
            name = one.full_name.removeprefix("runtime.v1.")
            if name in self.without:
                continue
            here = f"{path}.{one.name}" if path else one.name
            nested = one.message_type
            if nested is None or one.is_repeated or name in self.values:
                made = kind()
                self._fill(made, one, here)
                yield here, made
                continue
            yield here, kind(**{one.name: getattr(api_pb2, nested.name)()})
            for below, message in self.alone(getattr(api_pb2, nested.name), here):
                yield below, kind(**{one.name: message})

    def _fill(self, made: Any, one: FieldDescriptor, path: str) -> None:
        name = one.full_name.removeprefix("runtime.v1.")
        kind = one.message_type
        if kind is not None and kind.GetOptions().map_entry:
            given = self.values.get(name, {f"{path} key": f"{path} value"})
            getattr(made, one.name).update(given)
            return
        given = self.values.get(name)
        if one.is_repeated:
            listed = getattr(made, one.name)
            paths = [f"{path}[{i}]" for i in range(2)]
            if given is not None:
                listed.extend(given)
            elif kind is not None:
                listed.extend(self.message(getattr(api_pb2, kind.name), p) for p in paths)
            else:
                listed.extend(self._scalar(one, p) for p in paths)
        elif kind is not None:
            if name in self.values and given is None:
                return
            below = given or self.message(getattr(api_pb2, kind.name), path)
            getattr(made, one.name).CopyFrom(below)
        else:
            setattr(made, one.name, given if given is not None else self._scalar(one, path))

    def _scalar(self, one: FieldDescriptor, path: str) -> Any:
        if one.enum_type is not None:
            values = one.enum_type.values
            return values[-1 if self.variant == "full" else 0].number
        if one.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._truth(one.index)
        if one.type == FieldDescriptor.TYPE_BYTES:
            return path.encode()
        if one.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return path
        return number(path) % 1000 if one.cpp_type in (1, 3) else number(path)
