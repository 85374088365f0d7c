"""The pod sandbox RPCs, one file for each operation."""
