"""containerd tasks: exits, kills and dead shims."""
