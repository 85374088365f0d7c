"""Facts as Python text, one module for each kind of generated file.

Nothing here decides what a field becomes, and no template does: templates place these texts.
"""
