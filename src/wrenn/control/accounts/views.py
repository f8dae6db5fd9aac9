"""The wire form of what the account endpoints answer: the fields of `types`, without those that have no value."""

from __future__ import annotations

from wrenn.base.secrets import Secret
from wrenn.control.accounts.admin_store import TeamRecord, UserRecord
from wrenn.control.accounts.invitation_store import Invitation
from wrenn.control.accounts.key_store import Key
from wrenn.control.accounts.profile import Profile
from wrenn.control.accounts.sessions import SignedIn
from wrenn.control.accounts.team_store import Membership, Team
from wrenn.control.auth import TOKEN_LIFE_S, Role
from wrenn.control.http import wire_time

Json = dict[str, object]


def signed_in_json(signed_in: SignedIn) -> Json:
    """`AuthResponse`."""
    claims = signed_in.claims
    return {
        "token": signed_in.token.reveal(),
        "expires_in": TOKEN_LIFE_S,
        "user_id": str(claims.user_id),
        "team_id": str(claims.team_id),
        "email": claims.email,
        "name": claims.name,
        "role": claims.role,
        "is_admin": claims.is_admin,
    }


def me_json(profile: Profile) -> Json:
    """`MeView`."""
    user = profile.user
    return {
        "user_id": str(user.user_id),
        "email": user.email,
        "email_verified": user.is_email_verified,
        "name": user.name,
        "has_password": user.password_hash is not None,
        "is_admin": user.is_admin,
        "providers": profile.providers,
    }


def team_json(team: Team, role: Role) -> Json:
    """`TeamView`."""
    return {
        "id": str(team.team_id),
        "name": team.name,
        "slug": team.slug,
        "is_byoc": team.is_byoc,
        "created_at": wire_time(team.created_at),
        "keys_of_removed": "keep" if team.keeps_keys_of_removed else "revoke",
        "role": role,
    }


def member_json(member: Membership) -> Json:
    """`MemberView`."""
    return {
        "user_id": str(member.user_id),
        "name": member.name,
        "email": member.email,
        "role": member.role,
        "joined_at": wire_time(member.joined_at),
    }


def invitation_json(invitation: Invitation) -> Json:
    """`InvitationView`."""
    return {
        "id": str(invitation.invitation_id),
        "team_id": str(invitation.team_id),
        "email": invitation.email,
        "role": Role.MEMBER,
        "invited_by": str(invitation.invited_by),
        "inviter_email": invitation.inviter_email,
        "created_at": wire_time(invitation.created_at),
        "expires_at": wire_time(invitation.expires_at),
    }


def key_json(key: Key, secret: Secret | None = None) -> Json:
    """`KeyView`; with the key's text, `NewKey`."""
    return _without_none(
        {
            "id": str(key.key_id),
            "team_id": str(key.team_id),
            "name": key.name,
            "key_prefix": key.key_prefix,
            "scope": key.scope,
            "created_by": str(key.created_by),
            "creator_email": key.creator_email,
            "created_at": wire_time(key.created_at),
            "last_used": wire_time(key.last_used),
            "expires_at": wire_time(key.expires_at),
            "key": None if secret is None else secret.reveal(),
        }
    )


def user_record_json(record: UserRecord) -> Json:
    """`UserRecordView`."""
    return {
        "user_id": str(record.user_id),
        "email": record.email,
        "name": record.name,
        "status": record.status,
        "is_admin": record.is_admin,
        "created_at": wire_time(record.created_at),
        "teams_joined": record.teams_joined,
        "teams_owned": record.teams_owned,
    }


def team_record_json(record: TeamRecord, sandbox_count: int) -> Json:
    """`TeamRecordView`."""
    return _without_none(
        {
            "id": str(record.team_id),
            "name": record.name,
            "slug": record.slug,
            "is_byoc": record.is_byoc,
            "created_at": wire_time(record.created_at),
            "deleted_at": wire_time(record.deleted_at),
            "member_count": record.member_count,
            "owner_name": record.owner_name,
            "owner_email": record.owner_email,
            "active_sandbox_count": sandbox_count,
        }
    )


def _without_none(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
