"""The control plane: the REST API, the desired state in PostgreSQL, and the loops that make hosts agree with it."""
