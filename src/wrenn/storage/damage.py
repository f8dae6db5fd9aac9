"""Errors about stored things that are not what was written."""

from __future__ import annotations

from wrenn.base.errors import AgentFailure, InternalError


class DamagedSnapshot(AgentFailure):
    """A file of a snapshot is missing, torn, altered, or of another version. It is never restored."""


class DamagedBase(InternalError):
    """A base is torn or altered. It must be removed and made again."""
