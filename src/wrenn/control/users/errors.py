"""Errors of accounts (platform reference §1.3, §1.4)."""

from __future__ import annotations

from wrenn.base.errors import Conflict, Forbidden, Unauthorized


class EmailTaken(Conflict):
    """There is an account with this e-mail address."""

    code = "email_taken"


class NoTeam(Forbidden):
    """The user belongs to no team any more."""

    code = "no_team"


class AccountDisabled(Forbidden):
    """An admin of the platform has deactivated the account; shown only to callers who know its password."""

    code = "account_disabled"


class SignupClosed(Forbidden):
    """Only admins can create accounts on this installation."""

    code = "signup_closed"


class MailNotConfigured(Conflict):
    """No mail server is configured."""

    code = "mail_not_configured"


class WrongPassword(Unauthorized):
    """The current password is not correct."""

    code = "wrong_password"


class OwnsTeamWithMembers(Conflict):
    """The account cannot be deleted while it owns a team with other members."""

    code = "owns_team_with_members"


class EmailNotVerified(Conflict):
    """The owner of the e-mail address has not verified that the account is theirs."""

    code = "email_not_verified"


class LastAdmin(Conflict):
    """The change would leave the platform without an admin."""

    code = "last_admin"


class LastLoginMethod(Conflict):
    """The change would leave the account without a way to log in."""

    code = "last_login_method"
    http_status = 400
