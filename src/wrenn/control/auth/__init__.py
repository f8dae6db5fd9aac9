"""Authentication: who makes a request, and what it may do."""

from wrenn.control.audit import SYSTEM, Actor, ActorKind
from wrenn.control.auth.audit_scopes import scopes_of
from wrenn.control.auth.authenticator import Authenticator
from wrenn.control.auth.caller import Account, AccountDeactivated, Caller, Member, caller_of
from wrenn.control.auth.credential import ApiKey, Credential, Operation, Scope, UserToken
from wrenn.control.auth.dependency import (
    AccountOf,
    AdminOf,
    CallerOf,
    CredentialOf,
    HostTokenOf,
    MemberOf,
    OptionalAccountOf,
    credential_of,
    credential_of_socket,
    credential_of_token,
)
from wrenn.control.auth.held_account import hold_account
from wrenn.control.auth.last_used import LastUsed
from wrenn.control.auth.open_calls import CHANNEL, OpenCalls, endable
from wrenn.control.auth.store import CALLERS, CallerQuery, arguments_of
from wrenn.control.auth.tokens import (
    SECRET_MIN_CHARACTERS,
    TOKEN_LIFE_S,
    VISIT_LIFE_S,
    Claims,
    HostToken,
    Tokens,
    ensure_secret,
)
from wrenn.control.auth.watched_calls import WatchedCalls

__all__ = [
    "CALLERS",
    "CHANNEL",
    "SECRET_MIN_CHARACTERS",
    "SYSTEM",
    "TOKEN_LIFE_S",
    "VISIT_LIFE_S",
    "Account",
    "AccountDeactivated",
    "AccountOf",
    "Actor",
    "ActorKind",
    "AdminOf",
    "ApiKey",
    "Authenticator",
    "Caller",
    "CallerOf",
    "CallerQuery",
    "Claims",
    "Credential",
    "CredentialOf",
    "HostToken",
    "HostTokenOf",
    "LastUsed",
    "Member",
    "MemberOf",
    "OpenCalls",
    "Operation",
    "OptionalAccountOf",
    "Scope",
    "Tokens",
    "UserToken",
    "WatchedCalls",
    "arguments_of",
    "caller_of",
    "credential_of",
    "credential_of_socket",
    "credential_of_token",
    "endable",
    "ensure_secret",
    "hold_account",
    "scopes_of",
]
