"""The container RPCs, one file for each operation."""
