"""The generator on tiny specifications: input and expected output side by side in one file each."""
