"""Tasks of containerd: their ends, kills and dead shims."""
