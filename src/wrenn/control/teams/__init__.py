"""Teams, their members and invitations."""

from wrenn.control.teams import invitation_routes, routes
from wrenn.control.teams.deletion import TeamDeletion
from wrenn.control.teams.invitations import Invitations
from wrenn.control.teams.service import Teams, revoke_keys_by

ROUTERS = {
    "/v1/teams": (routes.router, invitation_routes.team_router),
    "/v1/invitations": (invitation_routes.router,),
    "/v1/users": (routes.search_router,),
}
"""The endpoints by their prefix."""

__all__ = ["ROUTERS", "Invitations", "TeamDeletion", "Teams", "revoke_keys_by"]
