"""Each entry of the mapping, altered: does a fast test notice? ``nox -s mutation`` runs it."""
