"""Chooses the host for a new sandbox: pure functions on values."""

from wrenn.control.placement.choose import Load, Overcommit, Wanted, check_larger_disk, choose_host

__all__ = ["Load", "Overcommit", "Wanted", "check_larger_disk", "choose_host"]
