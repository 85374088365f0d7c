"""Facts as Python text, with one module for each kind of generated file.

Neither this package nor a template decides what a field becomes: templates only place these texts.
"""
