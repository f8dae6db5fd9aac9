"""E-mail verification and password reset, which need no login."""

from wrenn.control.recovery.routes import router
from wrenn.control.recovery.service import Recovery

__all__ = ["Recovery", "router"]
