"""Accounts: sign-up, login and sessions; teams, their members and keys; what admins of the platform see of them."""

from wrenn.control.accounts import admin_routes, key_routes, me_routes, session_routes, team_routes
from wrenn.control.accounts.admin_service import Administration
from wrenn.control.accounts.entrance import Entrance
from wrenn.control.accounts.first_admin import create_admin
from wrenn.control.accounts.key_service import Keys
from wrenn.control.accounts.passwords import Passwords
from wrenn.control.accounts.profile import Profiles
from wrenn.control.accounts.sessions import Sessions
from wrenn.control.accounts.settings import AccountSettings
from wrenn.control.accounts.sweep import sweep_forever
from wrenn.control.accounts.team_end import TeamEnd
from wrenn.control.accounts.team_service import Teams
from wrenn.control.accounts.throttle import Throttle

ROUTERS = {
    "/v1/auth": (session_routes.router,),
    "/v1/me": (me_routes.router,),
    "/v1/teams": (team_routes.router,),
    "/v1/users": (team_routes.search_router,),
    "/v1/api-keys": (key_routes.router,),
    "/v1/admin": (admin_routes.router,),
}
"""The endpoints by their prefix."""

__all__ = [
    "ROUTERS",
    "AccountSettings",
    "Administration",
    "Entrance",
    "Keys",
    "Passwords",
    "Profiles",
    "Sessions",
    "TeamEnd",
    "Teams",
    "Throttle",
    "create_admin",
    "sweep_forever",
]
