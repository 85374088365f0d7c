"""GetContainerEvents: the store's events as the CRI's."""
