"""Requests as kubelets send them, and what the builders make of each.

``pods/`` has manifests as people write them. A real kubelet 1.36 turned each into the requests
below ``requests/`` (`capture`). Those below ``requests/written/`` are what a kubelet without an API
server never sends, such as a resize in place; they are written as it would send them.
"""
