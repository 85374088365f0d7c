"""Ports of the node that are forwarded to a pod."""

from __future__ import annotations

from generated.cri import api_pb2


def protocol_name(*, protocol: api_pb2.Protocol) -> str:
    """The protocol's name in lower case: tcp, udp or sctp."""
    return api_pb2.Protocol.Name(protocol).lower()
