"""Questions to the node whose answers the OCI spec builders need."""
