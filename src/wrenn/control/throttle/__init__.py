"""Limits on repeated attempts, counted in PostgreSQL for all replicas."""

from wrenn.control.throttle.throttle import Subject, Throttle

__all__ = ["Subject", "Throttle"]
