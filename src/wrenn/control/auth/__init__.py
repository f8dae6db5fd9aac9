"""Who is calling."""

from wrenn.control.auth.caller import UNKNOWN_KEY, Authenticator, Caller, Credential
from wrenn.control.auth.dependency import (
    CallerOf,
    CredentialOf,
    credential_of_socket,
    credential_of_token,
)
from wrenn.control.auth.store import KEY_COLUMNS, key_and_team, key_matches

__all__ = [
    "KEY_COLUMNS",
    "UNKNOWN_KEY",
    "Authenticator",
    "Caller",
    "CallerOf",
    "Credential",
    "CredentialOf",
    "credential_of_socket",
    "credential_of_token",
    "key_and_team",
    "key_matches",
]
