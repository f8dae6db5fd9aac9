"""Password reset and e-mail verification, which need no login."""

from wrenn.control.password_reset.routes import router
from wrenn.control.password_reset.service import PasswordReset

__all__ = ["PasswordReset", "router"]
