"""The commands beside ``serve``: doctor and explain."""
