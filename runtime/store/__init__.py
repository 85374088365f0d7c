"""All sandboxes and containers that the server knows, their files, and the order of changes."""
