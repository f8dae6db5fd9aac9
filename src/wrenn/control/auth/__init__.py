"""Who is calling."""

from wrenn.control.audit import SYSTEM, Actor, ActorKind
from wrenn.control.auth.caller import (
    UNKNOWN_KEY,
    Authenticator,
    Caller,
    Credential,
    caller_of,
)
from wrenn.control.auth.dependency import CallerOf, CredentialOf
from wrenn.control.auth.store import KEY_COLUMNS, KEY_TEAM_ID, key_and_team, key_matches

__all__ = [
    "KEY_COLUMNS",
    "KEY_TEAM_ID",
    "SYSTEM",
    "UNKNOWN_KEY",
    "Actor",
    "ActorKind",
    "Authenticator",
    "Caller",
    "CallerOf",
    "Credential",
    "CredentialOf",
    "caller_of",
    "key_and_team",
    "key_matches",
]
