"""Images on a host."""
