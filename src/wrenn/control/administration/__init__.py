"""What admins of the platform see and change: users and teams."""

from wrenn.control.administration.first_admin import create_admin
from wrenn.control.administration.routes import router
from wrenn.control.administration.service import Administration

__all__ = ["Administration", "create_admin", "router"]
