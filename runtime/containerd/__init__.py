"""The containerd daemon: its client and what it can do."""
