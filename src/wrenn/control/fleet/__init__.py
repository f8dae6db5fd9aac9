"""Hosts for admins of the platform and for teams that bring their own: create, list, tags, tokens, drain, delete."""

from wrenn.control.fleet.drains import Drains
from wrenn.control.fleet.operator_commands import is_registered, issue_local_token
from wrenn.control.fleet.routes import router
from wrenn.control.fleet.service import Fleet

__all__ = ["Drains", "Fleet", "is_registered", "issue_local_token", "router"]
