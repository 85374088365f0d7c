"""Facts about the node and images that the OCI spec builders need."""
