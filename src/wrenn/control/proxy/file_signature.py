"""Signed URLs of single files, as the e2b SDKs make them from the access token of a sandbox. Pure functions.

The signature is `v1_` and the unpadded base64 of SHA-256 over `path:operation:user:token`, with `:expiration` after it if there is one.
envd reads the query by the same rules; a query that two programs could read differently has no valid signature.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import unquote_to_bytes

from wrenn.base.secrets import Secret
from wrenn.protocol.guest_agent import FILES_PATH
from wrenn.relay import Scope

_OPERATIONS: Final = {"GET": b"read", "HEAD": b"read", "POST": b"write"}
_SIGNED: Final = frozenset({b"path", b"username", b"signature_expiration"})
_UNSIGNED: Final = frozenset({b"mode", b"owner", b"atomic"})
"""Parameters that a signature does not cover: with one of them a URL could create a setuid program."""
_EXPIRATION_DIGITS: Final = 18
_PATH_LIMIT_B: Final = 4096
"""As long as the kernel takes them; a longer one has no valid signature."""
_USER_LIMIT_B: Final = 256


@dataclass(frozen=True, slots=True)
class SignedFile:
    """The call of `/files` that a signature is for.

    Attributes:
        signature: as sent; empty if there is none, or if the query cannot be a signed one.
        expiration: seconds since 1970 in digits; empty: it never expires.
    """

    path: bytes
    operation: bytes
    user: bytes
    expiration: bytes
    signature: bytes

    @classmethod
    def of(cls, scope: Scope) -> Self | None:
        """Return the call of `/files` that a request makes; None: it is another request."""
        if scope["type"] != "http" or scope["raw_path"] != FILES_PATH.encode():
            return None
        operation = _OPERATIONS.get(scope["method"])
        if operation is None:
            return None
        values: dict[bytes, bytes] = {}
        is_clear = True
        for pair in scope["query_string"].split(b"&"):
            name, _, value = pair.partition(b"=")
            if name in _UNSIGNED or (name in values and name in {*_SIGNED, b"signature"}):
                is_clear = False
            values[name] = unquote_to_bytes(value.replace(b"+", b" "))
        expiration = values.get(b"signature_expiration", b"")
        has_bad_expiration = b"signature_expiration" in values and (
            not expiration.isdigit() or len(expiration) > _EXPIRATION_DIGITS
        )
        path, user = values.get(b"path", b""), values.get(b"username", b"")
        is_long = len(path) > _PATH_LIMIT_B or len(user) > _USER_LIMIT_B
        can_be_signed = is_clear and not has_bad_expiration and not is_long
        return cls(
            path,
            operation,
            user,
            expiration,
            values.get(b"signature", b"") if can_be_signed else b"",
        )

    @property
    def digest(self) -> bytes:
        """Identifies the call with its signature; does not reveal them."""
        parts = (self.path, self.operation, self.user, self.expiration, self.signature)
        state = hashlib.blake2b(digest_size=16, person=b"signed file")
        for part in parts:
            state.update(len(part).to_bytes(8, "big") + part)
        return state.digest()

    def is_signed_with(self, token: Secret) -> bool:
        """Return whether the signature was made with this access token, whether or not it has expired."""
        return hmac.compare_digest(self.signature, self._expected(token.reveal().encode()))

    def _expected(self, token: bytes) -> bytes:
        parts = [self.path, self.operation, self.user, token]
        if self.expiration:
            parts.append(self.expiration)
        digest = hashlib.sha256(b":".join(parts)).digest()
        return b"v1_" + base64.b64encode(digest).rstrip(b"=")

    def has_expired(self, now_s: float) -> bool:
        """Return whether the time until which the URL is valid has passed."""
        return bool(self.expiration) and int(self.expiration) < int(now_s)
