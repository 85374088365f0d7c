"""A runtime handler as containerd wants it in a container's record."""

from __future__ import annotations

from typing import Final

from generated.containerd import containers_pb2, runc_options_pb2
from runtime.containerd.client import proto_any
from runtime.transforms import facts

_RUNC: Final = "io.containerd.runc."


def container_runtime(handler: facts.Handler) -> containers_pb2.Container.Runtime:
    """The shim's name and, for runc's, its options: another shim's options are not known here."""
    runtime = containers_pb2.Container.Runtime(name=handler.runtime_type)
    if is_runc(handler.runtime_type):
        runtime.options.CopyFrom(proto_any(runc_options(handler)))
    return runtime


def is_runc(runtime_type: str) -> bool:
    """Whether the shim is runc's, whose options this module knows."""
    return runtime_type.startswith(_RUNC)


def runc_options(handler: facts.Handler) -> runc_options_pb2.Options:
    """The table ``options`` of the handler as the message that the runc shim reads.

    Its keys are the Go names of the fields (``SystemdCgroup`` for ``systemd_cgroup``), as in
    containerd's own config. Raises ValueError for a key or a value that does not fit.
    """
    fields = {f.name.replace("_", ""): f.name for f in runc_options_pb2.Options.DESCRIPTOR.fields}
    options = runc_options_pb2.Options()
    for key, value in handler.options.items():
        where = f"containerd.runtimes.{handler.name}.options.{key}"
        name = fields.get(key.lower())
        if name is None:
            raise ValueError(f"{where}: no such option of runc; there are {', '.join(fields)}")
        try:
            setattr(options, name, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    return options
