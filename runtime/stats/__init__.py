"""The stats RPCs: readings of cgroups and network interfaces."""
