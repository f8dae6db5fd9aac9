"""Builds the control plane's objects. No other module does."""

from __future__ import annotations

from .application import API, ROUTERS
from .platform import Control, running_control

__all__ = ["API", "ROUTERS", "Control", "running_control"]
