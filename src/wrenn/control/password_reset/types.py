"""Messages of e-mail verification and password reset."""

from __future__ import annotations

from pydantic import Field

from wrenn.control.http import RequestBody
from wrenn.control.users import PASSWORD_MAX_B, PASSWORD_MIN_B, Email, NewPassword


class RequestMail(RequestBody):
    """Whom to send a mail to."""

    email: Email


class VerifyEmail(RequestBody):
    """What the mail brought."""

    token: str = Field(max_length=200)


class ResetPassword(RequestBody):
    """What the mail brought, and what to log in with from now on."""

    token: str = Field(max_length=200)
    new_password: NewPassword = Field(description=f"{PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
