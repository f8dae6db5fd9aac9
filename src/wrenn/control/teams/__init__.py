"""Users, teams and who belongs to which; the first of them."""

from wrenn.control.teams.bootstrap import bootstrap
from wrenn.control.teams.store import hold_team, insert_team
from wrenn.control.teams.tables import teams, users, users_teams

__all__ = ["bootstrap", "hold_team", "insert_team", "teams", "users", "users_teams"]
