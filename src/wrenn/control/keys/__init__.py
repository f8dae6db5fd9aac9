"""API keys as their team creates, lists and revokes them."""

from wrenn.control.keys.routes import router
from wrenn.control.keys.service import Keys

__all__ = ["Keys", "router"]
