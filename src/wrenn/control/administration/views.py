"""JSON of the messages for admins, without the fields that have no value."""

from __future__ import annotations

from wrenn.control.administration.store import TeamRecord, UserRecord
from wrenn.control.http import wire_time, without_none


def user_record_json(record: UserRecord) -> dict[str, object]:
    """`UserRecordView`."""
    return {
        "user_id": str(record.user_id),
        "email": record.email,
        "email_verified": record.is_email_verified,
        "name": record.name,
        "status": record.status,
        "is_admin": record.is_admin,
        "created_at": wire_time(record.created_at),
        "teams_joined": record.teams_joined,
        "teams_owned": record.teams_owned,
    }


def team_record_json(record: TeamRecord, sandbox_count: int) -> dict[str, object]:
    """`TeamRecordView`."""
    return without_none(
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
