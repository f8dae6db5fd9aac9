"""What admins of the platform see and change: users and teams."""

from wrenn.control.administration.operator_commands import (
    AdminCreated,
    create_admin,
    create_sign_in_link,
    set_password,
)
from wrenn.control.administration.routes import router
from wrenn.control.administration.service import Administration

__all__ = ["AdminCreated", "Administration", "create_admin", "create_sign_in_link", "router", "set_password"]
