"""Refusals of accounts (platform reference §1.3, §1.4)."""

from __future__ import annotations

from wrenn.base.errors import Conflict, Forbidden, Unauthorized


class EmailTaken(Conflict):
    """There is an account with this e-mail address."""

    code = "email_taken"


class NoTeam(Forbidden):
    """The user belongs to no team that is left."""

    code = "no_team"


class AccountDisabled(Forbidden):
    """An admin of the platform has deactivated the account; said only to who knows its password."""

    code = "account_disabled"


class SignupClosed(Forbidden):
    """Accounts are made by admins only."""

    code = "signup_closed"


class MailNotConfigured(Conflict):
    """The operator has set up no mail server."""

    code = "mail_not_configured"


class WrongPassword(Unauthorized):
    """The current password is another one."""

    code = "wrong_password"


class OwnsTeamWithMembers(Conflict):
    """The account cannot go while others depend on a team of its own."""

    code = "owns_team_with_members"


class LastAdmin(Conflict):
    """The platform would be without an admin."""

    code = "last_admin"


class LastLoginMethod(Conflict):
    """The account could not be entered any more."""

    code = "last_login_method"
    http_status = 400
