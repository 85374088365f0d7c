"""Stubs of the CRI, from spec/cri."""
