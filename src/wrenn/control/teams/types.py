"""Messages about teams, their members and invitations (platform reference §1.5)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from wrenn.control.http import RequestBody, plain_text
from wrenn.control.identity import Role
from wrenn.control.users import Email, stripped

TEAM_NAME_LIMIT: Final = 128
_TEAM_NAME_MARKS: Final = " _-@'"


def _team_name(value: str) -> str:
    fits = all(character.isalnum() or character in _TEAM_NAME_MARKS for character in plain_text(value))
    if not fits or not 1 <= len(value) <= TEAM_NAME_LIMIT:
        raise ValueError(f"must be 1 to {TEAM_NAME_LIMIT} letters, digits, spaces or any of _ - @ '")
    return value


KeysOfRemoved = Literal["revoke", "keep"]
TeamName = Annotated[str, BeforeValidator(stripped), AfterValidator(_team_name)]


class CreateTeam(RequestBody):
    """The team to create."""

    name: TeamName = Field(description=f"1 to {TEAM_NAME_LIMIT} letters, digits, spaces or any of `_-@'`")


class TeamView(BaseModel):
    """A team, as one of its members sees it."""

    id: str
    name: str
    slug: str
    is_byoc: bool
    created_at: datetime
    keys_of_removed: KeysOfRemoved
    role: Role = Field(description="The caller's")


class MemberView(BaseModel):
    """A member of a team."""

    user_id: str
    name: str
    email: str
    role: Role
    joined_at: datetime


class TeamDetails(BaseModel):
    """A team and who belongs to it."""

    team: TeamView
    members: list[MemberView]


class PatchTeam(RequestBody):
    """What to change of a team."""

    name: TeamName | None = Field(
        None, description=f"As in `POST /v1/teams`, 1 to {TEAM_NAME_LIMIT} characters"
    )
    keys_of_removed: KeysOfRemoved | None = Field(
        None, description="What becomes of the team's API keys that a member made when that member goes"
    )


class AddMember(RequestBody):
    """Whom to invite."""

    email: Email


class InvitationView(BaseModel):
    """An invitation that nobody has accepted yet."""

    id: str
    team_id: str
    email: str
    role: Role = Field(description="What the invited user will be")
    invited_by: str
    inviter_email: str
    created_at: datetime
    expires_at: datetime


class NewInvitation(InvitationView):
    """A new invitation, with what accepts it. Shown this once."""

    token: str = Field(description="For `POST /v1/invitations/accept`")
    link: str = Field(description="A page that accepts it; also for `wrenn teams accept`")
    mailed: bool = Field(
        description="The link goes to the address by mail too: mail is set up, and there were not too many"
    )


class AcceptInvitation(RequestBody):
    """The invitation to accept."""

    token: str = Field(max_length=200)


class SetRole(RequestBody):
    """The member's new role."""

    role: Literal[Role.ADMIN, Role.MEMBER]


class Transfer(RequestBody):
    """The new owner."""

    user_id: str


class FoundUser(BaseModel):
    """A user that the search found."""

    user_id: str
    email: str
