"""Creates an account with its first team."""

from __future__ import annotations

from wrenn.control.audit import record
from wrenn.control.db import Transaction
from wrenn.control.identity import audit_actions, insert_team
from wrenn.control.users import user_store
from wrenn.control.users.errors import EmailTaken
from wrenn.control.users.user_store import User


async def add_account(tx: Transaction, *, email: str, name: str, password_hash: str | None) -> User:
    """Create an account and a team that it owns.

    Raises:
        EmailTaken.
    """
    user_id = await user_store.insert_user(tx, email=email, name=name, password_hash=password_hash)
    if user_id is None:
        raise EmailTaken("There is an account with this e-mail address: log in.")
    team_id = await insert_team(tx, user_id, name=f"{name}'s Team")
    await record(
        tx, team_id, audit_actions.user_actor(user_id, name), audit_actions.TEAM_CREATED, str(team_id)
    )
    return await user_store.load(tx, user_id)
