"""Signed links: whoever has one may visit one port of one sandbox until it expires.

A token is `<expiry>.<mac>`: seconds since 1970, and HMAC-SHA256 over what it is for. It is the same in a link's query and in
the cookie that opening the link sets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from wrenn.base.clock import Clock
from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.control.auth import Credential
from wrenn.control.sandboxes import Lookup
from wrenn.protocol.guest_agent import GUEST_AGENT_PORT

LINK_PARAMETER: Final = "wrenn_link"
EXPIRY_LIMIT_S: Final = 7 * 24 * 3600
_TOKEN: Final = re.compile(rb"([1-9][0-9]{0,11})\.([A-Za-z0-9_-]{43})")


class LinkSigner:
    """Signs and verifies link tokens, without the database."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def sign(self, sandbox_id: SandboxId, port: int, *, expires_at: int) -> str:
        """Return a token for this port until `expires_at`."""
        return f"{expires_at}.{self._mac(sandbox_id, port, expires_at).decode()}"

    def _mac(self, sandbox_id: SandboxId, port: int, expires_at: int) -> bytes:
        signed_text = f"port\n{sandbox_id}\n{port}\n{expires_at}".encode()
        return base64.urlsafe_b64encode(hmac.digest(self._secret, signed_text, hashlib.sha256)).rstrip(b"=")

    def seconds_left(self, token: bytes, sandbox_id: SandboxId, port: int) -> int:
        """Return how long the token still opens this port; 0: it does not."""
        match = _TOKEN.fullmatch(token)
        if match is None:
            return 0
        expires_at = int(match[1])
        if not hmac.compare_digest(match[2], self._mac(sandbox_id, port, expires_at)):
            return 0
        return max(0, expires_at - int(self._clock.now().timestamp()))


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a port, and when it expires."""

    url: str
    expires_at: datetime


class Links:
    """Creates links to ports for callers who have access to the sandbox."""

    def __init__(self, *, lookup: Lookup, signer: LinkSigner, clock: Clock) -> None:
        self._lookup = lookup
        self._signer = signer
        self._clock = clock

    async def create(
        self, credential: Credential, text_id: str, port: int, *, expires_in_s: int, scheme: str, domain: str
    ) -> Link:
        """Create a link to a port of the caller's sandbox, whatever its state.

        Raises:
            Unauthorized, InvalidRequest, NotFound. SandboxOfBuild: only its build may use it.
        """
        sandbox = (await self._lookup.locate(credential, text_id)).sandbox
        if not 1 <= port <= 65535 or port == GUEST_AGENT_PORT:
            raise InvalidRequest(f"port: must be a number from 1 to 65535, but not {GUEST_AGENT_PORT}.")
        expires_at = int(self._clock.now().timestamp()) + expires_in_s
        token = self._signer.sign(sandbox.sandbox_id, port, expires_at=expires_at)
        url = f"{scheme}://{port}-{sandbox.sandbox_id}.{domain}/?{LINK_PARAMETER}={token}"
        return Link(url, datetime.fromtimestamp(expires_at, UTC))
