"""Builds what finds out who calls."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.secrets import Secret
from wrenn.control.auth import Authenticator, LastUsed, OpenCalls, Tokens, ensure_secret

from .base import Base


@dataclass(frozen=True, slots=True)
class AuthParts:
    """What finds out who calls, and ends calls whose right has ended."""

    authenticator: Authenticator
    tokens: Tokens
    secret: Secret
    last_used: LastUsed
    open_calls: OpenCalls


def build_auth(base: Base) -> AuthParts:
    """Build authentication with the secret of this platform, which is made if there is none yet."""
    secret = base.settings.accounts.jwt_secret or ensure_secret(base.settings.data_dir)
    last_used = LastUsed(base.database, base.clock)
    return AuthParts(
        authenticator=Authenticator(base.database, last_used),
        tokens=Tokens(secret, base.clock),
        secret=secret,
        last_used=last_used,
        open_calls=OpenCalls(base.database),
    )
