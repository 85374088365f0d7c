"""Running asynchronous steps: in parallel, with rollback, in the background, in threads."""
