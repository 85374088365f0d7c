"""The server process: the joined parts, the socket, logs, metrics, recovery."""
