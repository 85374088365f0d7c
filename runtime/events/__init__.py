"""GetContainerEvents: the store's events as CRI events."""
