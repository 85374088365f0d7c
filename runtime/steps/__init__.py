"""Ways to run asynchronous steps: beside each other, with undo, in the background."""
