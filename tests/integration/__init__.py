"""Whole processes: the control plane with a real PostgreSQL and a simulated host."""
