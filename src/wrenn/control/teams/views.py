"""JSON of the messages about teams, members and invitations."""

from __future__ import annotations

from wrenn.control.http import wire_time
from wrenn.control.identity import Role
from wrenn.control.teams.invitation_store import Invitation
from wrenn.control.teams.team_store import Membership, Team


def team_json(team: Team, role: Role) -> dict[str, object]:
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


def member_json(member: Membership) -> dict[str, object]:
    """`MemberView`."""
    return {
        "user_id": str(member.user_id),
        "name": member.name,
        "email": member.email,
        "role": member.role,
        "joined_at": wire_time(member.joined_at),
    }


def invitation_json(invitation: Invitation) -> dict[str, object]:
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
