"""The pictures of the report, each a function from results to a `Picture`."""
