"""The registry client: hosts, tokens, requests."""
