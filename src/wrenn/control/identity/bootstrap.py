"""Creates the first user, team and API key of an installation."""

from __future__ import annotations

from typing import Final

from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import replace_key, store

FIRST_EMAIL: Final = "admin@localhost"
KEY_NAME: Final = "wrenn up"


async def bootstrap(database_url: str) -> Secret:
    """Make the first user and team unless they exist, and return a new API key for them.

    The key is shown this once; only its hash is stored. Called again, it makes a new key and the former one stops
    working: call it only when the key is lost.
    """
    database = Database(database_url)
    try:
        return await database.transaction(_bootstrap)
    finally:
        await database.close()


async def _bootstrap(tx: Transaction) -> Secret:
    user_id = await store.ensure_user(tx, email=FIRST_EMAIL, name="Admin", is_admin=True)
    team_id = await store.ensure_default_team(tx, user_id, name="Admin's Team")
    return await replace_key(tx, team_id=team_id, created_by=user_id, name=KEY_NAME)
