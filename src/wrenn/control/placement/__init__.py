"""Which host gets a new sandbox: pure, from values to a choice."""

from wrenn.control.placement.choose import Load, Overcommit, Wanted, check_larger_disk, choose_host

__all__ = ["Load", "Overcommit", "Wanted", "check_larger_disk", "choose_host"]
