"""Objects of the store that are encrypted before they leave a host or the control plane (docs/design/store.md).

A sealed object is `MAGIC`, the id of the store's key (8 bytes), a nonce (12 bytes), and the content by AES-256-GCM with the tag at its end. It is
bound to a name: copied to where another one is expected, it cannot be opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret

MAGIC: Final = b"wrenn sealed\x00\x01"
_ID_B: Final = 8
_NONCE_B: Final = 12
_TAG_B: Final = 16
SEALED_EXTRA_B: Final = len(MAGIC) + _ID_B + _NONCE_B + _TAG_B
"""By so much an object is larger than its content."""
_KEY_ID: Final = re.compile(r"[0-9a-f]{16}")
_SECRET: Final = re.compile(r"[0-9a-f]{64}")


class CannotOpen(InvalidRequest):
    """An object is not sealed, was altered, is another one, or was sealed with another key."""


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """The key of one owner's objects.

    Attributes:
        key_id: of the store's key that it was derived from, 16 hexadecimal digits. Not secret.
        secret: 64 hexadecimal digits.
    """

    key_id: str
    secret: Secret

    def seal(self, content: bytes, name: str) -> bytes:
        """Return the sealed object."""
        nonce = os.urandom(_NONCE_B)
        head = MAGIC + bytes.fromhex(self.key_id) + nonce
        return head + self._cipher().encrypt(nonce, content, self._bound(name))

    def open(self, data: bytes, name: str) -> bytes:
        """Return the content of a sealed object.

        Raises:
            CannotOpen: it was not sealed with this key under this name.
        """
        if key_id_of(data) != self.key_id:
            raise CannotOpen("The object in the store was not encrypted with the key of its owner.")
        start = len(MAGIC) + _ID_B
        nonce = data[start : start + _NONCE_B]
        try:
            return self._cipher().decrypt(nonce, data[start + _NONCE_B :], self._bound(name))
        except (InvalidTag, ValueError) as error:
            raise CannotOpen(
                "The object in the store cannot be decrypted: it was altered, or is another one."
            ) from error

    def to_json(self) -> dict[str, str]:
        """Return the message of the control plane to a host that needs the key."""
        return {"id": self.key_id, "secret": self.secret.reveal()}

    @classmethod
    def from_json(cls, value: object) -> Self | None:
        """Read what `to_json` returned; None: the objects are not encrypted. Raises InvalidRequest."""
        if value is None:
            return None
        if isinstance(value, dict):
            fields = cast("Mapping[str, object]", value)
            key_id, secret = fields.get("id"), fields.get("secret")
            if (
                isinstance(key_id, str)
                and isinstance(secret, str)
                and _KEY_ID.fullmatch(key_id)
                and _SECRET.fullmatch(secret)
            ):
                return cls(key_id, Secret(secret))
        raise InvalidRequest("The key of the store cannot be read.")

    def _cipher(self) -> AESGCM:
        return AESGCM(bytes.fromhex(self.secret.reveal()))

    def _bound(self, name: str) -> bytes:
        return f"{self.key_id}\n{name}".encode()


def key_id_of(data: bytes) -> str | None:
    """Return the id of the store's key that an object was sealed with; None: it is not sealed."""
    if not data.startswith(MAGIC) or len(data) < SEALED_EXTRA_B:
        return None
    return data[len(MAGIC) : len(MAGIC) + _ID_B].hex()
