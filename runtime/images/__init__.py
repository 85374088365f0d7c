"""What the image RPCs do: pull, unpack, list, remove."""
