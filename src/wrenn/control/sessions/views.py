"""JSON of the messages about sessions."""

from __future__ import annotations

from wrenn.control.auth import TOKEN_LIFE_S
from wrenn.control.sessions.service import SignedIn


def signed_in_json(signed_in: SignedIn) -> dict[str, object]:
    """`AuthResponse`."""
    claims = signed_in.claims
    return {
        "token": signed_in.token.reveal(),
        "expires_in": TOKEN_LIFE_S,
        "user_id": str(claims.user_id),
        "team_id": str(claims.team_id),
        "email": claims.email,
        "name": claims.name,
        "role": claims.role,
        "is_admin": claims.is_admin,
    }
