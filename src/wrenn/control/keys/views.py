"""JSON of the messages about API keys, without the fields that have no value."""

from __future__ import annotations

from wrenn.base.secrets import Secret
from wrenn.control.http import wire_time, without_none
from wrenn.control.keys.key_store import Key


def key_json(key: Key, secret: Secret | None = None) -> dict[str, object]:
    """`KeyView`; with the key's text, `NewKey`."""
    return without_none(
        {
            "id": str(key.key_id),
            "team_id": str(key.team_id),
            "name": key.name,
            "key_prefix": key.key_prefix,
            "scope": key.scope,
            "created_by": str(key.created_by),
            "creator_email": key.creator_email,
            "created_at": wire_time(key.created_at),
            "last_used": wire_time(key.last_used),
            "expires_at": wire_time(key.expires_at),
            "key": None if secret is None else secret.reveal(),
        }
    )
