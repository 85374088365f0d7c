"""The kernel and its file systems: calls, namespaces, cgroups, files."""
