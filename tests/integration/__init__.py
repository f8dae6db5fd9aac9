"""Whole processes: the control plane with a real PostgreSQL and a real agent over the simulated driver."""
