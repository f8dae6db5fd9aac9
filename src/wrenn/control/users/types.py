"""Types of the fields that describe a user: e-mail address, name and password."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from wrenn.control.http import plain_text
from wrenn.control.users.passwords import PASSWORD_MAX_B, PASSWORD_MIN_B

NAME_LIMIT_B: Final = 100
EMAIL_LIMIT: Final = 254
"""What a mail server takes."""


def stripped(value: object) -> object:
    """A text without the white space around it; anything else unchanged, for the type check to refuse."""
    return value.strip() if isinstance(value, str) else value


def _email(value: str) -> str:
    # Whether it exists, only a mail would tell; this keeps out what is none for certain.
    if any(character.isspace() for character in plain_text(value)) or not 3 <= len(value) <= EMAIL_LIMIT:
        raise ValueError(f"must be an e-mail address of 3 to {EMAIL_LIMIT} characters")
    if value.count("@") != 1:
        raise ValueError("must hold one '@'")
    return value.lower()


def is_of_this_server(email: str) -> bool:
    """Whether the address is at `localhost`. No mail reaches it, and only the operator makes accounts with such addresses."""
    return email.rpartition("@")[2].rstrip(".") == "localhost"


def _name(value: str) -> str:
    if not 1 <= len(plain_text(value).encode()) <= NAME_LIMIT_B:
        raise ValueError(f"must have 1 to {NAME_LIMIT_B} bytes")
    return value


def _password(value: str) -> str:
    if len(_shown_password(value).encode()) < PASSWORD_MIN_B:
        raise ValueError(f"must have {PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
    return value


def _shown_password(value: str) -> str:
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    if length > PASSWORD_MAX_B:
        raise ValueError(f"must have at most {PASSWORD_MAX_B} bytes")
    return value


Email = Annotated[str, BeforeValidator(stripped), AfterValidator(_email)]
Name = Annotated[str, BeforeValidator(stripped), AfterValidator(_name)]
NewPassword = Annotated[str, AfterValidator(_password)]
ShownPassword = Annotated[str, AfterValidator(_shown_password)]
