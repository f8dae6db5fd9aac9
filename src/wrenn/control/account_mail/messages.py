"""The texts of mails about accounts. Names in them are text that other people chose."""

from __future__ import annotations

import hashlib
from typing import Final

from wrenn.base.ids import TeamId, UserId
from wrenn.base.secrets import Secret
from wrenn.control.mail import NewMail, shown_name

VERIFY_LIFE_S: Final = 24 * 3600
RESET_LIFE_S: Final = 3600
_INVITATION_MAIL_LIFE_S: Final = 24 * 3600
"""Tried so long; the link in it lives longer, and the inviter has it too."""

INVITATION_PAGE: Final = "/account/invitation"
VERIFY_PAGE: Final = "/account/verify-email"
RESET_PAGE: Final = "/account/reset-password"


def link(base_url: str, page: str, token: Secret) -> str:
    """Return the URL of a page with the token in its fragment, which browsers send to no server."""
    return f"{base_url}{page}#{token.reveal()}"


def verify_topic(user_id: UserId) -> str:
    """The topic of the mail that verifies a user's address."""
    return f"verify:{user_id}"


def reset_topic(user_id: UserId) -> str:
    """The topic of the mail that resets a user's password."""
    return f"reset:{user_id}"


def invitation_topic(team_id: TeamId, email: str) -> str:
    """The topic of the mail that invites this address into a team."""
    return f"invitation:{team_id}:{hashlib.sha256(email.encode()).hexdigest()[:32]}"


def verification(user_id: UserId, email: str, *, base_url: str, token: Secret) -> NewMail:
    """Write the mail that asks the owner of an address to confirm it."""
    text = f"""Somebody has made an account with this e-mail address at

{base_url}

If it was you, open this page and confirm the address. The link works once, for 24 hours:

{link(base_url, VERIFY_PAGE, token)}

If it was not you, do not open it. You need not do anything.
"""
    return NewMail(verify_topic(user_id), email, "Confirm your e-mail address", text, VERIFY_LIFE_S)


def password_reset(user_id: UserId, email: str, *, base_url: str, token: Secret) -> NewMail:
    """Write the mail that lets the owner of an address choose another password."""
    text = f"""Somebody has asked for a new password for your account at

{base_url}

If it was you, open this page and choose one. The link works once, for one hour, and only the newest one works:

{link(base_url, RESET_PAGE, token)}

If it was not you, you need not do anything: your password stays as it is.
"""
    return NewMail(reset_topic(user_id), email, "Choose a new password", text, RESET_LIFE_S)


def invitation(
    team_id: TeamId, email: str, *, base_url: str, token: Secret, team_name: str, inviter_name: str
) -> NewMail:
    """Write the mail that invites an address into a team."""
    team, inviter = shown_name(team_name), shown_name(inviter_name)
    text = f"""You are invited to join a team at

{base_url}

The team calls itself: {team}
The person who invites you: {inviter}

If you know them, open this page and accept. The link works once, for a week, for an account with this e-mail address:

{link(base_url, INVITATION_PAGE, token)}

If you do not know them, you need not do anything.
"""
    return NewMail(
        invitation_topic(team_id, email),
        email,
        "You are invited to join a team",
        text,
        _INVITATION_MAIL_LIFE_S,
    )
