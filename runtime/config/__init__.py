"""The configuration file: its keys, their types and defaults."""
