"""The containerd daemon: the client, deadlines, and what the daemon supports."""
