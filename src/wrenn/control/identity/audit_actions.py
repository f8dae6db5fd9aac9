"""What is done to accounts, teams, members and keys, as the audit log tells it.

A team's own log has what its people do. The platform's log has what admins of the platform do, and the end of accounts; whoever
has that one has `of_platform` in the call.
"""

from __future__ import annotations

from typing import Final

from wrenn.base.ids import TeamId, UserId
from wrenn.control.audit import PLATFORM_TEAM, Actor, ActorKind, Deed, Resource, Scope, Status, record
from wrenn.control.db import Transaction
from wrenn.control.identity import Role

TEAM_CREATED: Final = Deed(Resource.TEAM, "create")
TEAM_DELETED: Final = Deed(Resource.TEAM, "delete", Status.WARNING)
MEMBER_REMOVED: Final = Deed(Resource.MEMBER, "remove", Status.WARNING, Scope.ADMIN)
MEMBER_LEFT: Final = Deed(Resource.MEMBER, "leave", Status.INFO, Scope.ADMIN)
KEY_REVOKED: Final = Deed(Resource.API_KEY, "revoke", Status.WARNING)

# Of the platform's log.
ANY_TEAM_DELETED: Final = Deed(Resource.TEAM, "delete", Status.WARNING, Scope.ADMIN)
BYOC_ENABLED: Final = Deed(Resource.TEAM, "set_byoc", Status.INFO, Scope.ADMIN)
USER_ACTIVATED: Final = Deed(Resource.USER, "activate", Status.SUCCESS, Scope.ADMIN)
USER_DEACTIVATED: Final = Deed(Resource.USER, "deactivate", Status.WARNING, Scope.ADMIN)
ADMIN_GRANTED: Final = Deed(Resource.USER, "grant_admin", Status.WARNING, Scope.ADMIN)
ADMIN_REVOKED: Final = Deed(Resource.USER, "revoke_admin", Status.WARNING, Scope.ADMIN)
ACCOUNT_DELETED: Final = Deed(Resource.USER, "delete", Status.WARNING, Scope.ADMIN)
EMAIL_VERIFIED: Final = Deed(Resource.USER, "verify_email", Status.SUCCESS, Scope.ADMIN)
RESET_MAILED: Final = Deed(Resource.USER, "request_password_reset", Status.INFO, Scope.ADMIN)
PASSWORD_RESET: Final = Deed(Resource.USER, "reset_password", Status.WARNING, Scope.ADMIN)


def team_renamed(old_name: str, new_name: str) -> Deed:
    """Another name."""
    facts = {"old_name": old_name, "new_name": new_name}
    return Deed(Resource.TEAM, "rename", Status.INFO, facts=facts)


def team_transferred(new_owner: UserId) -> Deed:
    """Another owner."""
    return Deed(Resource.TEAM, "transfer", Status.INFO, Scope.ADMIN, {"new_owner": str(new_owner)})


def member_invited(email: str) -> Deed:
    """An invitation was made; its token is nobody's business."""
    return Deed(Resource.MEMBER, "invite", Status.INFO, Scope.ADMIN, {"email": email})


def invitation_revoked(email: str) -> Deed:
    """An invitation cannot be accepted any more."""
    return Deed(Resource.MEMBER, "revoke_invitation", Status.INFO, Scope.ADMIN, {"email": email})


def member_added(email: str, role: Role, *, invited_by: UserId) -> Deed:
    """Another member, by an invitation that the member accepted."""
    facts = {"email": email, "role": role.value, "invited_by": str(invited_by)}
    return Deed(Resource.MEMBER, "add", Status.SUCCESS, Scope.ADMIN, facts)


def role_updated(new_role: Role) -> Deed:
    """Another role of a member."""
    return Deed(Resource.MEMBER, "role_update", Status.INFO, Scope.ADMIN, {"new_role": new_role.value})


def keys_of_removed_set(choice: str) -> Deed:
    """Another choice of what becomes of the keys of members who go."""
    return Deed(Resource.TEAM, "set_keys_of_removed", Status.INFO, Scope.ADMIN, {"keys_of_removed": choice})


def key_created(name: str) -> Deed:
    """Another key; its text is nobody's business."""
    return Deed(Resource.API_KEY, "create", facts={"name": name})


async def of_platform(tx: Transaction, actor: Actor, deed: Deed, resource: UserId | TeamId) -> None:
    """Write it into the platform's log, in the transaction that does it."""
    await record(tx, PLATFORM_TEAM, actor, deed, str(resource))


def user_actor(user_id: UserId, name: str) -> Actor:
    """A user without a session yet."""
    return Actor(ActorKind.USER, str(user_id), name)
