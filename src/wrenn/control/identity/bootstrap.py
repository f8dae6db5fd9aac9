"""Creates the first user, team and API key of an installation."""

from __future__ import annotations

from typing import Final

from wrenn.base.secrets import Secret
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import KeyFormat, replace_key, store

FIRST_EMAIL: Final = "admin@localhost"
KEY_NAMES: Final = {KeyFormat.WRENN: "wrenn up", KeyFormat.E2B: "wrenn up (e2b)"}


async def bootstrap(database_url: str, key_format: KeyFormat = KeyFormat.WRENN) -> Secret:
    """Make the first user and team unless they exist, and return a new API key for them, in this form.

    The key is shown this once; only its hash is stored. Called again, it makes a new key and the former one of this form stops
    working: call it only when the key is lost.
    """
    database = Database(database_url)

    async def make(tx: Transaction) -> Secret:
        user_id = await store.ensure_user(tx, email=FIRST_EMAIL, name="Admin", is_admin=True)
        team_id = await store.ensure_default_team(tx, user_id, name="Admin's Team")
        name = KEY_NAMES[key_format]
        return await replace_key(tx, team_id=team_id, created_by=user_id, name=name, key_format=key_format)

    try:
        return await database.transaction(make)
    finally:
        await database.close()
