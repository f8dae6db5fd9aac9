"""Messages of sign-up, login and sessions (platform reference §1.3)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from wrenn.control.http import RequestBody
from wrenn.control.identity import Role
from wrenn.control.users import (
    NAME_LIMIT_B,
    PASSWORD_MAX_B,
    PASSWORD_MIN_B,
    Email,
    Name,
    NewPassword,
    ShownPassword,
)


class SignUp(RequestBody):
    """A new account."""

    email: Email = Field(description="Trimmed, in lower case")
    password: NewPassword = Field(description=f"{PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
    name: Name = Field(description=f"1 to {NAME_LIMIT_B} bytes")


class LogIn(RequestBody):
    """The credentials of a user."""

    email: Email
    password: ShownPassword


class LogInByLink(RequestBody):
    """The token of a sign-in link: what follows `#` in it."""

    token: str = Field(max_length=200)


class RefreshSession(RequestBody):
    """For which team the token shall be."""

    team_id: str | None = Field(
        None,
        description="A team of the user. The session stays in its team, so that each tab of a browser can have another. "
        "Default: the team of the session",
    )


class SwitchTeam(RequestBody):
    """The team to switch to."""

    team_id: str


class AuthResponse(BaseModel):
    """A signed-in user and the user's token. The refresh token comes as a cookie."""

    token: str = Field(description="Show it as `Authorization: Bearer`; valid for a quarter of an hour")
    expires_in: int = Field(description="Seconds")
    user_id: str
    team_id: str
    email: str
    name: str
    role: Role
    is_admin: bool = Field(description="Of the platform")
