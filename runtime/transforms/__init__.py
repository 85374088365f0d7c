"""Pure functions that the mapping names, and the facts that they are given."""
