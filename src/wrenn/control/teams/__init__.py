"""Teams, their members and invitations."""

from wrenn.control.teams import invitation_routes, routes
from wrenn.control.teams.deletion import TeamDeletion
from wrenn.control.teams.former_access import EndedAccess, end_former_access
from wrenn.control.teams.invitations import Invitations
from wrenn.control.teams.service import Teams, revoke_keys_by

ROUTERS = {
    "/v1/teams": (routes.router, invitation_routes.team_router),
    "/v1/invitations": (invitation_routes.router,),
    "/v1/users": (routes.search_router,),
}
"""The endpoints by their prefix."""

__all__ = [
    "ROUTERS",
    "EndedAccess",
    "Invitations",
    "TeamDeletion",
    "Teams",
    "end_former_access",
    "revoke_keys_by",
]
