"""OCI runtime specs: their types, the default specs, and one builder per CRI message."""
