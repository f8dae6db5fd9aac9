"""Accounts: sign-up, login and sessions; teams, their members and keys; what admins of the platform see of them."""

from wrenn.control.accounts import (
    admin_routes,
    invitation_routes,
    key_routes,
    me_routes,
    recovery_routes,
    session_routes,
    team_routes,
    user_store,
)
from wrenn.control.accounts.admin_service import Administration
from wrenn.control.accounts.entrance import Entrance, add_account
from wrenn.control.accounts.errors import EmailTaken, SignupClosed
from wrenn.control.accounts.first_admin import create_admin
from wrenn.control.accounts.invitations import Invitations
from wrenn.control.accounts.key_service import Keys
from wrenn.control.accounts.mails import AccountMails
from wrenn.control.accounts.passwords import Passwords
from wrenn.control.accounts.profile import Profiles
from wrenn.control.accounts.recovery import Recovery
from wrenn.control.accounts.session_routes import CookiesOf
from wrenn.control.accounts.sessions import Sessions, SignedIn
from wrenn.control.accounts.settings import AccountSettings
from wrenn.control.accounts.sweep import sweep_forever
from wrenn.control.accounts.team_end import TeamEnd
from wrenn.control.accounts.team_service import Teams
from wrenn.control.accounts.throttle import Throttle
from wrenn.control.accounts.types import Email, Name

ROUTERS = {
    "/v1/auth": (session_routes.router, recovery_routes.router),
    "/v1/me": (me_routes.router,),
    "/v1/teams": (team_routes.router, invitation_routes.team_router),
    "/v1/invitations": (invitation_routes.router,),
    "/v1/users": (team_routes.search_router,),
    "/v1/api-keys": (key_routes.router,),
    "/v1/admin": (admin_routes.router,),
}
"""The endpoints by their prefix."""

__all__ = [
    "ROUTERS",
    "AccountMails",
    "AccountSettings",
    "Administration",
    "CookiesOf",
    "Email",
    "EmailTaken",
    "Entrance",
    "Invitations",
    "Keys",
    "Name",
    "Passwords",
    "Profiles",
    "Recovery",
    "Sessions",
    "SignedIn",
    "SignupClosed",
    "TeamEnd",
    "Teams",
    "Throttle",
    "add_account",
    "create_admin",
    "sweep_forever",
    "user_store",
]
