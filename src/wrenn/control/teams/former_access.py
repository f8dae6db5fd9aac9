"""Ends the ways into an account that do not need its password, for when somebody else may have made the account."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.ids import UserId
from wrenn.control.audit import Actor, record
from wrenn.control.db import Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.teams import invitation_store, team_store
from wrenn.control.users import user_store


@dataclass(frozen=True, slots=True)
class EndedAccess:
    """How many API keys, links to sign-in providers and invitations of an account were removed."""

    keys: int = 0
    links: int = 0
    invitations: int = 0


async def end_former_access(tx: Transaction, user_id: UserId, by: Actor) -> EndedAccess:
    """Revoke the API keys and invitations that the user made in any team, the keys with entries in the audit logs, and unlink all sign-in providers.

    The caller holds the user's lock and ends the sessions.
    """
    links = await user_store.count_links(tx, user_id)
    await user_store.unlink_all(tx, user_id)
    revoked = await team_store.revoke_all_keys_by(tx, user_id)
    for team_id, key_ids in revoked.items():
        await record(tx, team_id, by, audit_actions.KEY_REVOKED, *map(str, key_ids))
    invitations = await invitation_store.remove_all_by(tx, user_id)
    return EndedAccess(sum(map(len, revoked.values())), links, invitations)
