"""``cri-codegen review --out``: the specification as a static site.

Facts first (``facts.py`` and the modules it calls), then text (``write.py``, ``templates/``). Every
name on a page is read from the specification, so the site knows no message, object or target by
itself.
"""
