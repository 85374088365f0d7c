"""Every sandbox and container that the server knows, their files, and the order of change."""
