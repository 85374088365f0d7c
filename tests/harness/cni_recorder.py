"""A CNI plugin that writes down how it was called and answers as its config tells it.

``install`` puts it into a directory under any plugin names.  Keys of its network config:

    "record"  the file that gets one JSON line per call: command, env, stdin, pid
    "answer"  {COMMAND: result}; without one, ADD hands on prevResult or gives an address
    "fail"    {COMMAND: {"code", "msg", "details"}}; exits 1 with it
    "print"   {COMMAND: text for the standard output as it is}
    "exit"    {COMMAND: exit code}
    "hang"    [COMMAND, …]; never ends, and has a child that does not either
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESS = {
    "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:02"}, {"name": "eth0", "sandbox": "x"}],
    "ips": [{"address": "10.9.8.7/24", "gateway": "10.9.8.1", "interface": 1}],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {},
}


def install(directory: Path, names: Iterable[str]) -> None:
    """Create executables with these names that are this plugin."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        program = f"#!{sys.executable} -IS\n{Path(__file__).read_text()}"
        (directory / name).write_text(program)
        (directory / name).chmod(0o755)


def calls(record: Path) -> list[dict[str, Any]]:
    """Return the recorded calls, in order, without one that is being written."""
    text = record.read_text() if record.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main() -> int:
    """Run as the plugin."""
    config = json.load(sys.stdin)
    command = os.environ["CNI_COMMAND"]
    call = {
        "plugin": os.path.basename(sys.argv[0]),
        "command": command,
        "env": dict(os.environ),
        "stdin": config,
        "pid": os.getpid(),
    }
    with open(config["record"], "ab", buffering=0) as record:
        record.write(json.dumps(call).encode() + b"\n")  # at once: plugins can run in parallel
    if command in config.get("hang", ()):
        os.spawnlp(os.P_WAIT, "sleep", "sleep", "600")
    if command in config.get("fail", {}):
        print(json.dumps({"cniVersion": config["cniVersion"], **config["fail"][command]}))
        return 1
    answer = {"ADD": config.get("prevResult") or ADDRESS} | config.get("answer", {})
    if command in config.get("print", {}):
        print(config["print"][command])
    elif command in answer:
        print(json.dumps(answer[command]))
    return int(config.get("exit", {}).get(command, 0))


if __name__ == "__main__":
    sys.exit(main())
