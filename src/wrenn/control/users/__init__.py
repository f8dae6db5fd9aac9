"""Users' accounts: their rows, passwords, and the rules for their fields."""

from wrenn.control.users import user_store
from wrenn.control.users.errors import (
    AccountDisabled,
    EmailNotVerified,
    EmailTaken,
    LastAdmin,
    LastLoginMethod,
    MailNotConfigured,
    NoTeam,
    OwnsTeamWithMembers,
    SignupClosed,
    WrongPassword,
)
from wrenn.control.users.new_account import add_account
from wrenn.control.users.passwords import PASSWORD_MAX_B, PASSWORD_MIN_B, Passwords
from wrenn.control.users.settings import AccountSettings
from wrenn.control.users.types import (
    NAME_LIMIT_B,
    Email,
    Name,
    NewPassword,
    ShownPassword,
    is_of_this_server,
    stripped,
)
from wrenn.control.users.user_store import TeamRole, User

__all__ = [
    "NAME_LIMIT_B",
    "PASSWORD_MAX_B",
    "PASSWORD_MIN_B",
    "AccountDisabled",
    "AccountSettings",
    "Email",
    "EmailNotVerified",
    "EmailTaken",
    "LastAdmin",
    "LastLoginMethod",
    "MailNotConfigured",
    "Name",
    "NewPassword",
    "NoTeam",
    "OwnsTeamWithMembers",
    "Passwords",
    "ShownPassword",
    "SignupClosed",
    "TeamRole",
    "User",
    "WrongPassword",
    "add_account",
    "is_of_this_server",
    "stripped",
    "user_store",
]
