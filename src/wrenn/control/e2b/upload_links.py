"""Links that permit the upload of the files of one COPY step: for one upload, for an hour, while whoever got the link has access to the team."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid4

from wrenn.base.errors import NotFound
from wrenn.base.ids import KeyId, TeamId, UserId
from wrenn.base.secrets import Secret

_LIFE_S: Final = 3600
_PURPOSE: Final = b"wrenn e2b file upload"


@dataclass(frozen=True, slots=True)
class UploadLink:
    """What a link permits.

    Attributes:
        link_id: by which it is known that it was used.
        holder: the API key or user that it was given to.
    """

    link_id: UUID
    team_id: TeamId
    files_hash: str
    expires_at: datetime
    holder: KeyId | UserId


class UploadLinks:
    """Makes links and reads them. They are signed, and stored only when they were used."""

    def __init__(self, secret: Secret) -> None:
        self._key = hmac.digest(secret.reveal().encode(), _PURPOSE, "sha256")

    def make(self, team_id: TeamId, files_hash: str, holder: KeyId | UserId) -> str:
        """Return a new link as a part of a path."""
        expires = int(time.time()) + _LIFE_S
        kind = "k" if isinstance(holder, KeyId) else "u"
        message = f"{team_id.value.hex}-{files_hash}-{expires}-{uuid4().hex}-{kind}{holder.value.hex}"
        return f"{message}-{self._signature(message)}"

    def read(self, text: str) -> UploadLink:
        """Return what a link permits. Whether it was used, and its holder has access, the caller checks.

        Raises:
            NotFound: it has expired, or is none of this platform.
        """
        message, _, signature = text.rpartition("-")
        if not hmac.compare_digest(signature.encode(), self._signature(message).encode()):
            raise NotFound("There is no such link for an upload.")
        team, files_hash, expires, link_id, holder = message.split("-")
        if int(expires) < time.time():
            raise NotFound("The link for the upload has expired.")
        kind = KeyId if holder[0] == "k" else UserId
        return UploadLink(
            link_id=UUID(link_id),
            team_id=TeamId(UUID(team)),
            files_hash=files_hash,
            expires_at=datetime.fromtimestamp(int(expires), UTC),
            holder=kind(UUID(holder[1:])),
        )

    def _signature(self, message: str) -> str:
        return hmac.digest(self._key, message.encode(), "sha256").hex()
