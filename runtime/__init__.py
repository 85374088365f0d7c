"""The hand-written part of the server."""
