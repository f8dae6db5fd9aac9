"""The audit log's actions on accounts, teams, members and API keys.

A team's own log has what its people do. The platform's log has what admins of the platform do, and the end of accounts; whoever
has that one has `record_for_platform` in the call.
"""

from __future__ import annotations

from typing import Final

from wrenn.base.ids import TeamId, UserId
from wrenn.control.audit import PLATFORM_TEAM, Actor, ActorKind, AuditAction, Resource, Scope, Status, record
from wrenn.control.db import Transaction
from wrenn.control.identity import Role

TEAM_CREATED: Final = AuditAction(Resource.TEAM, "create")
TEAM_DELETED: Final = AuditAction(Resource.TEAM, "delete", Status.WARNING)
MEMBER_REMOVED: Final = AuditAction(Resource.MEMBER, "remove", Status.WARNING, Scope.ADMIN)
MEMBER_LEFT: Final = AuditAction(Resource.MEMBER, "leave", Status.INFO, Scope.ADMIN)
KEY_REVOKED: Final = AuditAction(Resource.API_KEY, "revoke", Status.WARNING)

# Of the platform's log.
ANY_TEAM_DELETED: Final = AuditAction(Resource.TEAM, "delete", Status.WARNING, Scope.ADMIN)
BYOC_ENABLED: Final = AuditAction(Resource.TEAM, "set_byoc", Status.INFO, Scope.ADMIN)
USER_ACTIVATED: Final = AuditAction(Resource.USER, "activate", Status.SUCCESS, Scope.ADMIN)
USER_DEACTIVATED: Final = AuditAction(Resource.USER, "deactivate", Status.WARNING, Scope.ADMIN)
ADMIN_GRANTED: Final = AuditAction(Resource.USER, "grant_admin", Status.WARNING, Scope.ADMIN)
ADMIN_REVOKED: Final = AuditAction(Resource.USER, "revoke_admin", Status.WARNING, Scope.ADMIN)
ACCOUNT_DELETED: Final = AuditAction(Resource.USER, "delete", Status.WARNING, Scope.ADMIN)
EMAIL_VERIFIED: Final = AuditAction(Resource.USER, "verify_email", Status.SUCCESS, Scope.ADMIN)
RESET_MAILED: Final = AuditAction(Resource.USER, "request_password_reset", Status.INFO, Scope.ADMIN)
SIGNED_IN_BY_LINK: Final = AuditAction(Resource.USER, "sign_in_by_link", Status.WARNING, Scope.ADMIN)
PASSWORD_RESET: Final = AuditAction(Resource.USER, "reset_password", Status.WARNING, Scope.ADMIN)


def team_renamed(old_name: str, new_name: str) -> AuditAction:
    """The team got another name."""
    facts = {"old_name": old_name, "new_name": new_name}
    return AuditAction(Resource.TEAM, "rename", Status.INFO, facts=facts)


def team_transferred(new_owner: UserId) -> AuditAction:
    """The team got another owner."""
    return AuditAction(Resource.TEAM, "transfer", Status.INFO, Scope.ADMIN, {"new_owner": str(new_owner)})


def member_invited(email: str) -> AuditAction:
    """An e-mail address was invited into the team; the entry does not hold the token."""
    return AuditAction(Resource.MEMBER, "invite", Status.INFO, Scope.ADMIN, {"email": email})


def invitation_revoked(email: str) -> AuditAction:
    """An invitation was revoked."""
    return AuditAction(Resource.MEMBER, "revoke_invitation", Status.INFO, Scope.ADMIN, {"email": email})


def member_added(email: str, role: Role, *, invited_by: UserId) -> AuditAction:
    """A user accepted an invitation and became a member."""
    facts = {"email": email, "role": role.value, "invited_by": str(invited_by)}
    return AuditAction(Resource.MEMBER, "add", Status.SUCCESS, Scope.ADMIN, facts)


def role_updated(new_role: Role) -> AuditAction:
    """A member got another role."""
    return AuditAction(Resource.MEMBER, "role_update", Status.INFO, Scope.ADMIN, {"new_role": new_role.value})


def keys_of_removed_set(choice: str) -> AuditAction:
    """The team changed whether the API keys of removed members are revoked."""
    return AuditAction(
        Resource.TEAM, "set_keys_of_removed", Status.INFO, Scope.ADMIN, {"keys_of_removed": choice}
    )


def key_created(name: str) -> AuditAction:
    """An API key was created; the entry does not hold its text."""
    return AuditAction(Resource.API_KEY, "create", facts={"name": name})


async def record_for_platform(
    tx: Transaction, actor: Actor, action: AuditAction, resource: UserId | TeamId
) -> None:
    """Record an action in the platform's audit log, in the transaction that performs it."""
    await record(tx, PLATFORM_TEAM, actor, action, str(resource))


def user_actor(user_id: UserId, name: str) -> Actor:
    """Return the actor for a user who has no session yet."""
    return Actor(ActorKind.USER, str(user_id), name)
