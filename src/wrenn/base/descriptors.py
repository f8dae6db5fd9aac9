"""The limit on open files, whose default suits programs with few connections."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Raise the soft limit on open files to the hard limit: each sandbox and connection takes several."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
