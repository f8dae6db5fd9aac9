"""Errors for stored files that are missing or differ from what was written."""

from __future__ import annotations

from wrenn.base.errors import AgentFailure, InternalError


class DamagedSnapshot(AgentFailure):
    """A file of a snapshot is missing, truncated, altered, or of another version. The snapshot is never restored."""


class DamagedBase(InternalError):
    """A file of a base is missing or altered. The base must be made again."""
