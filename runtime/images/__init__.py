"""The image RPCs: pull, unpack, list, remove."""
