"""The server process: wiring, the socket, logging, metrics, recovery."""
