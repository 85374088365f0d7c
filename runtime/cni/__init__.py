"""CNI: the network configuration, its plugins and what they answered."""
