"""From a credential to the team that it speaks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from wrenn.base.errors import Unauthorized
from wrenn.base.ids import KeyId, TeamId
from wrenn.base.secrets import Secret
from wrenn.control.audit import Actor, ActorKind
from wrenn.control.auth.store import find_key
from wrenn.control.db import Database
from wrenn.control.keys import LastUsed
from wrenn.protocol.api import API_KEY_HEADER, API_KEY_PATTERN

UNKNOWN_KEY = "The API key is not valid: it is unknown, was removed, or its team is gone."


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key as it is compared: by its hash. Not known to be valid."""

    key_hash: str

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """Read the value of the header `X-API-Key`.

        Raises:
            Unauthorized: none, or not the form of a key.
        """
        if not header:
            raise Unauthorized(f"No API key: send it in the header {API_KEY_HEADER}.")
        if API_KEY_PATTERN.fullmatch(header) is None:
            raise Unauthorized(UNKNOWN_KEY)
        return cls(Secret(header).sha256_hex())


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key of a team."""

    key_id: KeyId
    key_name: str
    team_id: TeamId

    @property
    def actor(self) -> Actor:
        """Who the audit log says it was."""
        return Actor(ActorKind.API_KEY, str(self.key_id), self.key_name)


def caller_of(row: Any) -> Caller:
    """The caller in a row with `KEY_COLUMNS`."""
    return Caller(KeyId(row.key_id), row.key_name, TeamId(row.key_team_id))


class Authenticator:
    """Tells the caller by the credential."""

    def __init__(self, database: Database, last_used: LastUsed) -> None:
        self._database = database
        self._last_used = last_used

    async def identify(self, credential: Credential) -> Caller:
        """One round trip.

        Raises:
            Unauthorized: unknown key.
        """
        row = await find_key(self._database, credential.key_hash)
        if row is None:
            raise Unauthorized(UNKNOWN_KEY)
        return self.accept(caller_of(row))

    def accept(self, caller: Caller) -> Caller:
        """Note a caller whom another query has identified, as one that reads the key and its target together."""
        self._last_used.note(caller.key_id)
        return caller
