"""Messages for admins of the platform (platform reference §1.11)."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, StrictBool

from wrenn.control.http import RequestBody

PAGE_LIMIT: Final = 1_000_000


class SetActive(RequestBody):
    """Whether the user is active."""

    active: StrictBool


class SetAdmin(RequestBody):
    """Whether the user is an admin of the platform.

    `accept_unverified`: the account gets the rights though nobody has verified that it belongs to the owner of its e-mail address.
    """

    admin: StrictBool
    accept_unverified: StrictBool = False


class SetByoc(RequestBody):
    """Whether the team may bring its own hosts."""

    enabled: StrictBool


class UserRecordView(BaseModel):
    """A user, as admins of the platform see it."""

    user_id: str
    email: str
    email_verified: bool
    name: str
    status: Literal["active", "disabled"]
    is_admin: bool
    created_at: datetime
    teams_joined: int
    teams_owned: int


class UsersPage(BaseModel):
    """A page of users, newest first."""

    users: list[UserRecordView]
    page: int
    total: int


class TeamRecordView(BaseModel):
    """A team, as admins of the platform see it. Optional fields are absent where they have no value."""

    id: str
    name: str
    slug: str
    is_byoc: bool
    created_at: datetime
    deleted_at: datetime | None = None
    member_count: int
    owner_name: str | None = None
    owner_email: str | None = None
    active_sandbox_count: int


class TeamsPage(BaseModel):
    """A page of teams, newest first."""

    teams: list[TeamRecordView]
    page: int
    total: int
