"""Cut every verb of the CRI at every await, recover, and act as the kubelet would."""
