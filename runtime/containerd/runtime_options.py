"""The runtime handler in the form stored in a container's record."""

from __future__ import annotations

import os
import shutil
from typing import Any, Final

import tomli_w
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from generated.containerd import containers_pb2, runc_options_pb2, runtime_options_pb2
from runtime.containerd.values import proto_any
from runtime.transforms import facts

_RUNC: Final = "io.containerd.runc."

SEARCH: Final = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
"""Where programs are searched: a server started from a user's shell may lack the sbin
directories."""


def container_runtime(
    handler: facts.Handler, output_owner: tuple[int, int] | None = None
) -> containers_pb2.Container.Runtime:
    """The shim's name and its options.

    ``output_owner`` is the user and group on the node that own the pipes of the process, so that it
    can open its /dev/stdout again; None means the shim's own user. Only runc's shim knows it.
    """
    runtime = containers_pb2.Container.Runtime(name=handler.runtime_type)
    options = shim_options(handler)
    if isinstance(options, runc_options_pb2.Options) and output_owner is not None:
        options.io_uid, options.io_gid = output_owner
    if options is not None:
        runtime.options.CopyFrom(proto_any(options))
    return runtime


def shim_options(handler: facts.Handler) -> Message | None:
    """The handler's ``options`` as the message that its shim reads; None if there are none.

    Shims other than runc's get what containerd calls generic options: a configuration file, or the
    whole table as TOML if it names no file.
    """
    if is_runc(handler.runtime_type):
        return runc_options(handler)
    if not handler.options:
        return None
    path = str(handler.options.get("ConfigPath", ""))
    body = handler.options.get("ConfigBody")
    if body is None:
        body = "" if path else tomli_w.dumps(handler.options)
    return runtime_options_pb2.Options(
        type_url=str(handler.options.get("TypeUrl", "")),
        config_path=path,
        config_body=str(body).encode(),
    )


def is_runc(runtime_type: str) -> bool:
    """Whether this is runc's shim, whose options this module knows."""
    return runtime_type.startswith(_RUNC)


def runc_options(handler: facts.Handler) -> runc_options_pb2.Options:
    """The handler's ``options`` table as the message that the runc shim reads.

    The keys are the Go names of the fields (``SystemdCgroup`` for ``systemd_cgroup``), as in
    containerd's own config. Raises ValueError for an unknown key or an invalid value.
    """
    fields = {f.name.replace("_", ""): f.name for f in runc_options_pb2.Options.DESCRIPTOR.fields}
    options = runc_options_pb2.Options()
    for key, value in handler.options.items():
        where = f"containerd.runtimes.{handler.name}.options.{key}"
        name = fields.get(key.lower())
        if name is None:
            raise ValueError(f"{where}: unknown runc option; allowed: {', '.join(fields)}")
        try:
            setattr(options, name, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    return options


def stored_options(runtime: containers_pb2.Container.Runtime) -> runc_options_pb2.Options | None:
    """The options in a container's record; None if they are not those of runc's shim."""
    options = runc_options_pb2.Options()
    if not runtime.options.type_url.endswith(options.DESCRIPTOR.full_name):
        return None
    options.ParseFromString(runtime.options.value)
    return options


def shown_options(runtime: containers_pb2.Container.Runtime) -> dict[str, Any] | None:
    """The options in a container's record, as shown in verbose statuses."""
    options: Message | None = stored_options(runtime)
    if options is None:
        generic = runtime_options_pb2.Options()
        if not runtime.options.type_url.endswith(generic.DESCRIPTOR.full_name):
            return None
        generic.ParseFromString(runtime.options.value)
        options = generic
    return MessageToDict(options, preserving_proto_field_name=True)


def runc_binary(options: runc_options_pb2.Options) -> str:
    """The path of the OCI runtime: the handler's own, or ``runc`` from PATH."""
    name = options.binary_name or "runc"
    return shutil.which(name, path=SEARCH) or name
