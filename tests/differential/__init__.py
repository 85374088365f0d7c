"""``nox -s differential``: the same requests to this server and to containerd's built-in plugin.

``requests`` makes cases from the CRI's descriptors and the rules of the mapping, ``pair`` performs
each on both nodes, ``observe`` reads what came of it, ``normalize`` and ``compare`` find what
differs, ``known`` says which differences are deliberate, and ``shrink`` makes the request of any
other difference small.
"""
