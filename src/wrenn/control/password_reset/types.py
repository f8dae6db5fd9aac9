"""Messages of e-mail verification and password reset."""

from __future__ import annotations

from pydantic import Field

from wrenn.control.http import RequestBody
from wrenn.control.users import PASSWORD_MAX_B, PASSWORD_MIN_B, Email, NewPassword


class RequestMail(RequestBody):
    """The address to send a mail to."""

    email: Email


class VerifyEmail(RequestBody):
    """The token from the mail."""

    token: str = Field(max_length=200)


class ResetPassword(RequestBody):
    """The token from the mail, and the new password."""

    token: str = Field(max_length=200)
    new_password: NewPassword = Field(description=f"{PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
