"""Messages about the caller's own account (platform reference §1.4)."""

from __future__ import annotations

from pydantic import BaseModel, Field

from wrenn.control.http import RequestBody
from wrenn.control.users import Name, NewPassword, ShownPassword


class MeView(BaseModel):
    """The caller's own account."""

    user_id: str
    email: str
    email_verified: bool = Field(
        description="Its owner followed a link in a mail to it, or a sign-in provider vouches for it"
    )
    name: str
    has_password: bool
    is_admin: bool = Field(description="Of the platform")
    providers: list[str] = Field(description="Linked ways to sign in")


class PatchMe(RequestBody):
    """What to change."""

    name: Name


class ChangePassword(RequestBody):
    """The current and the new password."""

    current_password: ShownPassword | None = Field(None, description="Needed where there is one")
    new_password: NewPassword
    confirm_password: ShownPassword | None = Field(
        None, description="The new one again, where it is the first"
    )


class DeleteMe(RequestBody):
    """The confirmation that the account is to be deleted."""

    confirmation: str = Field(description="The account's e-mail address")
