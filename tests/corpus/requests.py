"""The files of the corpus: one request each, named by its RPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import Message

from generated.cri import api_pb2

FOLDER: Final = Path(__file__).parent / "requests"


@dataclass(frozen=True)
class Request:
    """One request: its file's name below ``requests/`` without the suffix, its RPC, its message."""

    name: str
    rpc: str
    message: Message


def message_of(rpc: str) -> Message:
    """An empty request of an RPC of either service."""
    services = api_pb2.DESCRIPTOR.services_by_name.values()
    (method,) = (s.methods_by_name[rpc] for s in services if rpc in s.methods_by_name)
    message: Message = getattr(api_pb2, method.input_type.name)()
    return message


def text(rpc: str, message: Message) -> str:
    """The content of a request's file, with the proto's field names."""
    content = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps({rpc: content}, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def read() -> Iterator[Request]:
    """Every request, in the order of its name."""
    for path in sorted(FOLDER.rglob("*.json")):
        ((rpc, content),) = json.loads(path.read_text()).items()
        message = json_format.ParseDict(content, message_of(rpc))
        yield Request(path.relative_to(FOLDER).with_suffix("").as_posix(), rpc, message)
