"""Exec, Attach and PortForward: the streaming server and its protocols."""
