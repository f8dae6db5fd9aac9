"""Tokens that open one sandbox for clients of the e2b API, derived from the replicas' shared secret, so that no token is stored.

All replicas derive the same tokens, also after a restart. A fork has another id and so another token; a token stays valid while its
sandbox pauses and resumes. The token of the guest agent itself is the host's (`agent/guest_tokens.py`) and never leaves the host.
"""

from __future__ import annotations

import hmac
from typing import ClassVar, Final

from wrenn.base.ids import SandboxId
from wrenn.base.secrets import Secret

_LENGTH: Final = 64


class _SandboxTokens:
    """Derives a token for each sandbox: HMAC-SHA256, in hex."""

    _purpose: ClassVar[bytes]

    def __init__(self, secret: Secret) -> None:
        # A key of its own for each purpose, so that no other use of the secret yields one of these tokens.
        self._key = hmac.digest(secret.reveal().encode(), self._purpose, "sha256")

    def of(self, sandbox_id: SandboxId) -> Secret:
        """Return the token of a sandbox, whether or not there is such a sandbox."""
        return Secret(hmac.digest(self._key, str(sandbox_id).encode(), "sha256").hex())

    def matches(self, token: bytes, sandbox_id: SandboxId) -> bool:
        """Return whether a token as a client sent it is that of the sandbox, in time that does not depend on where they differ."""
        return len(token) == _LENGTH and hmac.compare_digest(token, self.of(sandbox_id).reveal().encode())


class AccessTokens(_SandboxTokens):
    """The tokens that open the guest agents of sandboxes: header `X-Access-Token`."""

    _purpose = b"wrenn e2b guest access"


class TrafficTokens(_SandboxTokens):
    """The tokens that open the ports of sandboxes whose ports are private: header `E2b-Traffic-Access-Token`."""

    _purpose = b"wrenn e2b traffic access"
