"""CNI: the network configuration, the plugins and their results."""
