"""The generator: from spec/ to generated/."""
