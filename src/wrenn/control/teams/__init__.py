"""Users, teams and who belongs to which; the first of them."""

from wrenn.control.teams.bootstrap import bootstrap
from wrenn.control.teams.tables import teams, users, users_teams

__all__ = ["bootstrap", "teams", "users", "users_teams"]
