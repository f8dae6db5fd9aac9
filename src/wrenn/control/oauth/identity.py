"""The values at the beginning and the end of a sign-in: random values to send, and the identity of the user."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Start:
    """The random values and the redirect URI of one sign-in.

    Attributes:
        state: comes back with the browser.
        nonce: comes back in the identity token.
        verifier: shown to the provider with the code; only its digest goes through the browser's address bar.
        redirect_uri: where the provider sends the browser back to.
    """

    state: str
    nonce: str
    verifier: str
    redirect_uri: str

    @property
    def challenge(self) -> str:
        """The verifier's digest (PKCE, S256)."""
        return urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user at a provider. `provider_id` never changes; the e-mail address may.

    Attributes:
        is_email_verified: the provider says that the address is this person's. One that says that it is not lets nobody in.
    """

    provider_id: str
    email: str
    name: str
    is_email_verified: bool
