"""Stubs of the containerd services in use, from spec/containerd."""
