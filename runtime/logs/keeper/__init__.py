"""The log keeper: a small separate process that drains containers' output into CRI log files."""
