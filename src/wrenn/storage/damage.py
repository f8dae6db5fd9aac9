"""What is said of snapshots that are not what was written."""

from __future__ import annotations

from wrenn.base.errors import AgentFailure


class DamagedSnapshot(AgentFailure):
    """A file of a snapshot is missing, torn, altered, or of another version. It is never restored."""
