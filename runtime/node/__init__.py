"""What the node RPCs do: version, status, runtime config."""
