"""The control plane: the REST API, what should be in PostgreSQL, and the loops that make hosts agree with it."""
