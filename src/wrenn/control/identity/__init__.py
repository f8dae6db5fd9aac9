"""The rows that identify callers: users, teams, memberships, API keys and sessions.

Authentication reads them; the features `users`, `teams`, `keys` and `sessions` change them.
"""

from wrenn.control.identity.key_formats import KeyFormat
from wrenn.control.identity.owner_share import OwnerShare
from wrenn.control.identity.roles import Role
from wrenn.control.identity.store import (
    ensure_platform_team,
    insert_key,
    insert_team,
    lock_active_team,
    may_write,
    owning_user_of,
    replace_key,
    writer,
)
from wrenn.control.identity.tables import sessions, team_api_keys, teams, users, users_teams

__all__ = [
    "KeyFormat",
    "OwnerShare",
    "Role",
    "ensure_platform_team",
    "insert_key",
    "insert_team",
    "lock_active_team",
    "may_write",
    "owning_user_of",
    "replace_key",
    "sessions",
    "team_api_keys",
    "teams",
    "users",
    "users_teams",
    "writer",
]
