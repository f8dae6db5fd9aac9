"""JSON of the messages about the caller's own account."""

from __future__ import annotations

from wrenn.control.profile.service import Profile


def me_json(profile: Profile) -> dict[str, object]:
    """`MeView`."""
    user = profile.user
    return {
        "user_id": str(user.user_id),
        "email": user.email,
        "email_verified": user.is_email_verified,
        "name": user.name,
        "has_password": user.password_hash is not None,
        "is_admin": user.is_admin,
        "providers": profile.providers,
    }
