"""The state of a sign-in in progress, in a signed cookie of the browser."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from dataclasses import asdict, dataclass
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.secrets import Secret

TICKET_LIFE_S: Final = 600
_PURPOSE: Final = b"wrenn oauth ticket 1"
_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class Ticket:
    """One sign-in in progress. `session_id` and `user_id` name the account to link the provider to; empty for a sign-in."""

    provider: str
    state: str
    nonce: str
    verifier: str
    expires: int
    user_id: str = ""
    session_id: str = ""


class Tickets:
    """Encodes tickets as signed cookies and decodes them."""

    def __init__(self, secret: Secret, clock: Clock) -> None:
        # A key of its own: what this signs is no token, and no token is this.
        self._key = hmac.digest(secret.reveal().encode(), _PURPOSE, "sha256")
        self._clock = clock

    def expires(self) -> int:
        """Return when a ticket that is issued now expires."""
        return int(self._clock.now().timestamp()) + TICKET_LIFE_S

    def write(self, ticket: Ticket) -> str:
        """Encode a ticket as the value of a cookie."""
        body = urlsafe_b64encode(json.dumps(asdict(ticket)).encode()).decode().rstrip("=")
        return f"{body}.{self._mac(body)}"

    def read(self, cookie: str | None) -> Ticket | None:
        """Decode a cookie; None: missing, not signed by us, or expired."""
        body, _, mac = (cookie or "")[:_LIMIT].partition(".")
        if not body.isascii() or not mac.isascii() or not hmac.compare_digest(mac, self._mac(body)):
            return None
        try:
            ticket = Ticket(**json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4))))
        except (NotBase64, ValueError, TypeError):
            return None
        return ticket if ticket.expires > self._clock.now().timestamp() else None

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
