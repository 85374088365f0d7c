"""The RPCs about the node: version, status, runtime config."""
