"""The limit of open files, which service managers set for programs that hold few connections."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as it may have: sandboxes and connections take several each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
