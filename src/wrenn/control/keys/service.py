"""API keys of a team, created and revoked by its members."""

from __future__ import annotations

from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import Conflict, InvalidRequest
from wrenn.base.ids import KeyId
from wrenn.base.secrets import Secret
from wrenn.control.audit import record
from wrenn.control.auth import Member, hold_account
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions, insert_key
from wrenn.control.keys import key_store
from wrenn.control.keys.key_store import Key
from wrenn.control.keys.types import CreateKey
from wrenn.control.teams import team_store

KEYS_LIMIT: Final = 500
"""Keys of one team. Only a program that creates a key for each call and never revokes one needs more."""


class Keys:
    """Creates, lists and revokes the API keys of a team."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, member: Member, body: CreateKey) -> tuple[Key, Secret]:
        """Create a key and return it with its text, which is not stored and cannot be read again.

        Raises:
            InvalidRequest: the expiry is not in the future. Conflict: the team has too many keys.
        """
        if body.expires_at is not None and body.expires_at <= self._clock.now():
            raise InvalidRequest("expires_at: must be in the future.")

        async def create(tx: Transaction) -> tuple[Key, Secret]:
            await team_store.lock(tx, member.team_id)
            # Under the locks, so that nobody creates a key who is being removed, or whose sessions are being ended.
            await hold_account(tx, member.account)
            await team_store.expect_member(tx, member.team_id, member.user_id)
            if await key_store.count(tx, member.team_id) >= KEYS_LIMIT:
                raise Conflict(f"The team has {KEYS_LIMIT} API keys: revoke some first.")
            secret = await insert_key(
                tx,
                team_id=member.team_id,
                created_by=member.user_id,
                name=body.name,
                scope=body.scope,
                expires_at=body.expires_at,
                key_format=body.format,
            )
            key = await key_store.by_hash(tx, member.team_id, secret.sha256_hex())
            action = audit_actions.key_created(key.name)
            await record(tx, member.team_id, member.actor, action, str(key.key_id))
            return key, secret

        return await self._database.transaction(create)

    async def list(self, member: Member) -> list[Key]:
        """Return the team's keys, newest first."""
        return await key_store.of_team(self._database, member.team_id)

    async def revoke(self, member: Member, text_id: str) -> None:
        """Revoke a key of the team. Does nothing if there is no such key.

        Open calls with this key end too: a trigger of the database notifies `auth/open_calls.py`.
        """
        key_id = KeyId.parse(text_id)

        async def revoke(tx: Transaction) -> None:
            if await key_store.revoke(tx, member.team_id, key_id):
                await record(tx, member.team_id, member.actor, audit_actions.KEY_REVOKED, str(key_id))

        await self._database.transaction(revoke)
