"""The commands other than ``serve``: doctor and explain."""
