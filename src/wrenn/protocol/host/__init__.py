"""Control plane ↔ host agent: generated messages and stubs, and the errors of both."""
