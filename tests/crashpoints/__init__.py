"""Interrupt every operation of the CRI at every await, recover, and continue as the kubelet
would."""
