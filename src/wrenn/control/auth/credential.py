"""What a request shows of who sends it, read without the database: an API key or a user's token.

A key stands for its team, within its scope. A token stands for a user in a team; its signature and time are checked here,
and everything that can change while it lasts (session, account, membership, role, team) is read with the row that the
request is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wrenn.base.errors import Unauthorized
from wrenn.base.ids import SessionId, TeamId, UserId
from wrenn.base.secrets import Secret
from wrenn.protocol.api import (
    API_KEY_HEADER,
    API_KEY_PATTERN,
    CAPSULES_PREFIX,
    SANDBOXES_PREFIX,
    SNAPSHOTS_PREFIX,
)

UNKNOWN_KEY: Final = (
    "The API key is not valid: it is unknown, was revoked, has expired, or its team or creator is gone."
)
NO_CREDENTIAL: Final = f"No credentials: send an API key in the header {API_KEY_HEADER}, or a user's token as Authorization: Bearer."
USER_NEEDED: Final = "This needs a user, not an API key: log in and send the token as Authorization: Bearer."


class Scope(StrEnum):
    """What an API key is for."""

    FULL = "full"
    SANDBOXES = "sandboxes"
    READ = "read"


class Access(StrEnum):
    """What a request does, as far as scopes tell requests apart."""

    SEE = "see"
    CHANGE = "change"
    SEE_SANDBOXES = "see sandboxes"
    CHANGE_SANDBOXES = "change sandboxes"


ALLOWED: Final = {
    Scope.FULL: frozenset(Access),
    Scope.SANDBOXES: frozenset({Access.SEE_SANDBOXES, Access.CHANGE_SANDBOXES}),
    Scope.READ: frozenset({Access.SEE, Access.SEE_SANDBOXES}),
}
assert ALLOWED.keys() == set(Scope), "every scope says what it allows"


def access_of(*, is_http: bool, method: str, path: str) -> Access:
    """What a request does: GET and HEAD see, everything else changes, also what is read from inside a sandbox.

    A WebSocket begins with GET and may do anything, so it changes.
    """
    sees = is_http and method in ("GET", "HEAD")
    if path.startswith((SANDBOXES_PREFIX, CAPSULES_PREFIX, SNAPSHOTS_PREFIX)):
        return Access.SEE_SANDBOXES if sees else Access.CHANGE_SANDBOXES
    return Access.SEE if sees else Access.CHANGE


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is compared: by its hash. Not known to be valid. `access`: what it is shown for."""

    key_hash: str
    access: Access

    @classmethod
    def parse(cls, header: str | None, access: Access = Access.CHANGE) -> ApiKey:
        """Read the value of the header `X-API-Key`.

        Raises:
            Unauthorized: none, or not the form of a key.
        """
        if not header:
            raise Unauthorized(NO_CREDENTIAL)
        if API_KEY_PATTERN.fullmatch(header) is None:
            raise Unauthorized(UNKNOWN_KEY)
        return cls(Secret(header).sha256_hex(), access)


@dataclass(frozen=True, slots=True)
class UserToken:
    """A user's token, signed by us and not expired. Whether what it says still holds, the database knows."""

    user_id: UserId
    team_id: TeamId
    session_id: SessionId


Credential = ApiKey | UserToken
