"""The credential of a request, read without the database: an API key or a user's token.

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
    BUILDS_PREFIX,
    CAPSULES_PREFIX,
    E2B_PREFIX,
    SANDBOXES_PREFIX,
    SNAPSHOTS_PREFIX,
    TEMPLATES_PREFIX,
)

UNKNOWN_KEY: Final = (
    "The API key is not valid: it is unknown, was revoked, has expired, or its team or creator is gone."
)
NO_CREDENTIAL: Final = f"No credentials: send an API key in the header {API_KEY_HEADER}, or a user's token as Authorization: Bearer."
USER_NEEDED: Final = "This needs a user, not an API key: log in and send the token as Authorization: Bearer."


class Scope(StrEnum):
    """What an API key may be used for."""

    FULL = "full"
    SANDBOXES = "sandboxes"
    READ = "read"


class Operation(StrEnum):
    """What a request does, as far as the scopes of API keys distinguish it."""

    READ = "see"
    WRITE = "change"
    READ_SANDBOXES = "see sandboxes"
    WRITE_SANDBOXES = "change sandboxes"


ALLOWED: Final = {
    Scope.FULL: frozenset(Operation),
    Scope.SANDBOXES: frozenset({Operation.READ_SANDBOXES, Operation.WRITE_SANDBOXES}),
    Scope.READ: frozenset({Operation.READ, Operation.READ_SANDBOXES}),
}
_BUILDING: Final = (
    TEMPLATES_PREFIX,
    BUILDS_PREFIX,
    *(f"{E2B_PREFIX}{version}/templates" for version in ("", "/v2", "/v3")),
)
"""Below these, what all of a team's sandboxes are made from is changed: a key for sandboxes only reads there."""
assert ALLOWED.keys() == set(Scope), "every scope says what it allows"


def operation_of(*, is_http: bool, method: str, path: str) -> Operation:
    """Classify a request: GET and HEAD read, everything else writes, also reads from inside a sandbox.

    A WebSocket begins with GET and may do anything, so it changes.
    """
    sees = is_http and method in ("GET", "HEAD")
    if not sees and path.startswith(_BUILDING) and not _may_delete_snapshot(method, path):
        return Operation.WRITE
    if path.startswith(
        (
            SANDBOXES_PREFIX,
            CAPSULES_PREFIX,
            SNAPSHOTS_PREFIX,
            TEMPLATES_PREFIX,
            BUILDS_PREFIX,
            f"{E2B_PREFIX}/",
        )
    ):
        return Operation.READ_SANDBOXES if sees else Operation.WRITE_SANDBOXES
    return Operation.READ if sees else Operation.WRITE


def _may_delete_snapshot(method: str, path: str) -> bool:
    """Whether a request may be e2b's way to delete a snapshot. `Templates.delete` refuses a template that was built."""
    below = f"{E2B_PREFIX}/templates/"
    return method == "DELETE" and path.startswith(below) and path != f"{below}tags"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The hash of an API key that a request carries, not checked yet, and what the request does."""

    key_hash: str
    operation: Operation

    @classmethod
    def parse(cls, header: str | None, operation: Operation = Operation.WRITE) -> ApiKey:
        """Read the value of the header `X-API-Key`.

        Raises:
            Unauthorized: none, or not the form of a key.
        """
        if not header:
            raise Unauthorized(NO_CREDENTIAL)
        if API_KEY_PATTERN.fullmatch(header) is None:
            raise Unauthorized(UNKNOWN_KEY)
        return cls(Secret(header).sha256_hex(), operation)


@dataclass(frozen=True, slots=True)
class UserToken:
    """The ids in a user's token whose signature and expiry were checked. The database knows whether they are still valid."""

    user_id: UserId
    team_id: TeamId
    session_id: SessionId


Credential = ApiKey | UserToken
