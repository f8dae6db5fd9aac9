"""The caller of a request as services see it, and the errors for credentials that are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from wrenn.base.errors import Forbidden, Unauthorized
from wrenn.base.ids import KeyId, SessionId, TeamId, UserId
from wrenn.control.audit import Actor, ActorKind
from wrenn.control.auth.credential import ALLOWED, UNKNOWN_KEY, ApiKey, Credential, Scope
from wrenn.control.identity import Role

SESSION_OVER: Final = "The session has ended: log in again."


class AccountDeactivated(Forbidden):
    """An admin of the platform has deactivated the user."""

    code = "account_deactivated"


@dataclass(frozen=True, slots=True)
class Account:
    """A user with a valid session, independent of any team."""

    user_id: UserId
    session_id: SessionId
    email: str
    name: str
    is_admin: bool

    @property
    def actor(self) -> Actor:
        """The user as the audit log names it."""
        return Actor(ActorKind.USER, str(self.user_id), self.name)


@dataclass(frozen=True, slots=True)
class Caller:
    """The user or API key that makes a request, and the team it acts for.

    Attributes:
        role: in the team; of a key that of a member.
        key_id: of the API key that was shown, if it was one.
        account: of the user who calls, if it is one.
    """

    actor: Actor
    team_id: TeamId
    role: Role
    scope: Scope
    key_id: KeyId | None = None
    account: Account | None = None

    @property
    def user_id(self) -> UserId | None:
        """The calling user; None: an API key."""
        return None if self.account is None else self.account.user_id


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a team; for calls that API keys may not make."""

    account: Account
    team_id: TeamId
    role: Role

    @property
    def user_id(self) -> UserId:
        """The id of the user."""
        return self.account.user_id

    @property
    def actor(self) -> Actor:
        """The user as the audit log names it."""
        return self.account.actor


def caller_of(credential: Credential, row: Any) -> Caller:
    """Convert the row of a `CallerQuery` to a caller; None, if the query found nothing, is refused.

    Raises:
        Unauthorized: the key is not valid, the session is over, the account is gone.
        Forbidden: the key is for something else; the user is deactivated, or not a member of the token's team any more.
    """
    if isinstance(credential, ApiKey):
        if row is None:
            raise Unauthorized(UNKNOWN_KEY)
        scope = Scope(row.caller_scope)
        if credential.operation not in ALLOWED[scope]:
            raise Forbidden(f"The API key has the scope '{scope}', which does not allow this.")
        key_id = KeyId(row.caller_key_id)
        actor = Actor(ActorKind.API_KEY, str(key_id), row.caller_key_name)
        return Caller(actor, TeamId(row.caller_team_id), Role.MEMBER, scope, key_id=key_id)
    member = member_of(row)
    return Caller(member.actor, member.team_id, member.role, Scope.FULL, account=member.account)


def member_of(row: Any) -> Member:
    """Convert a row of `USER_CALLER` to a team member. Raises as `caller_of`."""
    account = account_of(row)
    if row.caller_role is None:
        raise Forbidden(
            "You are not a member of this team any more, or it is gone: choose another with switch-team."
        )
    return Member(account, TeamId(row.caller_team_id), Role(row.caller_role))


def account_of(row: Any) -> Account:
    """Convert a row of `USER_CALLER` to an account, whether or not the token's team exists. Raises as `caller_of`."""
    if row is None or row.caller_status == "deleted":
        raise Unauthorized(SESSION_OVER)
    if row.caller_status != "active":
        raise AccountDeactivated("Your account was deactivated by an admin of the platform.")
    return Account(
        user_id=UserId(row.caller_user_id),
        session_id=SessionId(row.caller_session_id),
        email=row.caller_email,
        name=row.caller_name,
        is_admin=row.caller_is_admin,
    )
