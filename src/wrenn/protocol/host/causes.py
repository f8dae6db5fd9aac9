"""Codes for what an agent did to a sandbox without being asked, as `Sandbox.cause` carries them."""

from __future__ import annotations

from typing import Final

CONTROL_PLANE_LOST: Final = "control_plane_lost"
"""Paused, because the agent had no contact with the control plane for too long."""
