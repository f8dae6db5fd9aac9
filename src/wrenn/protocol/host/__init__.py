"""Control plane ↔ host agent: generated messages and stubs, and the mapping of errors."""
