"""Messages of the account endpoints (platform reference §1.3–1.6, §1.11)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, StrictBool

from wrenn.control.accounts.passwords import PASSWORD_MAX_B, PASSWORD_MIN_B
from wrenn.control.auth import Role, Scope
from wrenn.control.http import RequestBody, plain_text

NAME_LIMIT_B: Final = 100
TEAM_NAME_LIMIT: Final = 128
EMAIL_LIMIT: Final = 254
"""What a mail server takes."""
PAGE_LIMIT: Final = 1_000_000
_TEAM_NAME_MARKS: Final = " _-@'"


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _email(value: str) -> str:
    # Whether it exists, only a mail would tell; this keeps out what is none for certain.
    if any(character.isspace() for character in plain_text(value)) or not 3 <= len(value) <= EMAIL_LIMIT:
        raise ValueError(f"must be an e-mail address of 3 to {EMAIL_LIMIT} characters")
    if value.count("@") != 1:
        raise ValueError("must hold one '@'")
    return value.lower()


def _name(value: str) -> str:
    if not 1 <= len(plain_text(value).encode()) <= NAME_LIMIT_B:
        raise ValueError(f"must have 1 to {NAME_LIMIT_B} bytes")
    return value


def _team_name(value: str) -> str:
    fits = all(character.isalnum() or character in _TEAM_NAME_MARKS for character in plain_text(value))
    if not fits or not 1 <= len(value) <= TEAM_NAME_LIMIT:
        raise ValueError(f"must be 1 to {TEAM_NAME_LIMIT} letters, digits, spaces or any of _ - @ '")
    return value


def _password(value: str) -> str:
    if len(_shown_password(value).encode()) < PASSWORD_MIN_B:
        raise ValueError(f"must have {PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
    return value


def _shown_password(value: str) -> str:
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    if length > PASSWORD_MAX_B:
        raise ValueError(f"must have at most {PASSWORD_MAX_B} bytes")
    return value


KeysOfRemoved = Literal["revoke", "keep"]
Email = Annotated[str, BeforeValidator(_strip), AfterValidator(_email)]
Name = Annotated[str, BeforeValidator(_strip), AfterValidator(_name)]
TeamName = Annotated[str, BeforeValidator(_strip), AfterValidator(_team_name)]
NewPassword = Annotated[str, AfterValidator(_password)]
ShownPassword = Annotated[str, AfterValidator(_shown_password)]


class SignUp(RequestBody):
    """A new account."""

    email: Email = Field(description="Trimmed, in lower case")
    password: NewPassword = Field(description=f"{PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")
    name: Name = Field(description=f"1 to {NAME_LIMIT_B} bytes")


class LogIn(RequestBody):
    """What a user knows."""

    email: Email
    password: ShownPassword


class RequestMail(RequestBody):
    """Whom to send a mail to."""

    email: Email


class VerifyEmail(RequestBody):
    """What the mail brought."""

    token: str = Field(max_length=200)


class ResetPassword(RequestBody):
    """What the mail brought, and what to log in with from now on."""

    token: str = Field(max_length=200)
    new_password: NewPassword = Field(description=f"{PASSWORD_MIN_B} to {PASSWORD_MAX_B} bytes")


class SwitchTeam(RequestBody):
    """To which team."""

    team_id: str


class AuthResponse(BaseModel):
    """Who is in, and the token to show. The refresh token comes as a cookie."""

    token: str = Field(description="Show it as `Authorization: Bearer`; valid for a quarter of an hour")
    expires_in: int = Field(description="Seconds")
    user_id: str
    team_id: str
    email: str
    name: str
    role: Role
    is_admin: bool = Field(description="Of the platform")


class MeView(BaseModel):
    """The own account."""

    user_id: str
    email: str
    email_verified: bool = Field(
        description="Its owner followed a link in a mail to it, or a sign-in provider vouches for it"
    )
    name: str
    has_password: bool
    is_admin: bool = Field(description="Of the platform")
    providers: list[str] = Field(description="Linked ways to sign in")


class PatchMe(RequestBody):
    """What to change."""

    name: Name


class ChangePassword(RequestBody):
    """The old and the new one."""

    current_password: ShownPassword | None = Field(None, description="Needed where there is one")
    new_password: NewPassword
    confirm_password: ShownPassword | None = Field(
        None, description="The new one again, where it is the first"
    )


class DeleteMe(RequestBody):
    """That it is meant."""

    confirmation: str = Field(description="The account's e-mail address")


class CreateTeam(RequestBody):
    """A new team, or a new name."""

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
    """Which invitation."""

    token: str = Field(max_length=200)


class SetRole(RequestBody):
    """What the member is from now on."""

    role: Literal[Role.ADMIN, Role.MEMBER]


class Transfer(RequestBody):
    """To whom."""

    user_id: str


class FoundUser(BaseModel):
    """A user who was searched for."""

    user_id: str
    email: str


class CreateKey(RequestBody):
    """A new API key."""

    name: Name = "Unnamed API Key"
    scope: Scope = Field(
        Scope.FULL,
        description="`full`; `sandboxes`: sandboxes and snapshots only; `read`: GET only",
    )
    expires_at: AwareDatetime | None = Field(None, description="Absent: never")


class KeyView(BaseModel):
    """An API key. Optional fields are absent where they have no value."""

    id: str
    team_id: str
    name: str
    key_prefix: str
    scope: Scope
    created_by: str
    creator_email: str
    created_at: datetime
    last_used: datetime | None = Field(None, description="To the minute")
    expires_at: datetime | None = None


class NewKey(KeyView):
    """A new API key, with its text."""

    key: str = Field(description="Shown this once")


class SetActive(RequestBody):
    """Whether the user is let in."""

    active: StrictBool


class SetAdmin(RequestBody):
    """Whether the user is an admin of the platform."""

    admin: StrictBool


class SetByoc(RequestBody):
    """Whether the team may bring its own hosts."""

    enabled: StrictBool


class UserRecordView(BaseModel):
    """A user, as admins of the platform see it."""

    user_id: str
    email: str
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
