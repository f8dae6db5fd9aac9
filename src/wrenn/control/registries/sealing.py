"""Encrypts passwords of registries for the database: AES-256-GCM with a key derived from the secret of the replicas.

A sealed password is bound to its team, registry and user name: copied into another row, or beside another name, it cannot be opened.
"""

from __future__ import annotations

import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wrenn.base.errors import InvalidState
from wrenn.base.ids import TeamId
from wrenn.base.secrets import Secret

_PURPOSE: Final = b"wrenn passwords of registries"
_FORMAT: Final = b"\x01"
_NONCE_B: Final = 12


class Sealing:
    """Seals and opens passwords. All replicas have the same secret."""

    def __init__(self, secret: Secret) -> None:
        self._cipher = AESGCM(hmac.digest(secret.reveal().encode(), _PURPOSE, "sha256"))

    def seal(self, password: Secret, team_id: TeamId, registry: str, username: str) -> bytes:
        """Return the encrypted password."""
        nonce = os.urandom(_NONCE_B)
        bound = _bound(team_id, registry, username)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, password.reveal().encode(), bound)

    def open(self, sealed: bytes, team_id: TeamId, registry: str, username: str) -> Secret:
        """Return the password.

        Raises:
            InvalidState: it was sealed with another secret, or for something else.
        """
        nonce, content = sealed[1 : 1 + _NONCE_B], sealed[1 + _NONCE_B :]
        try:
            if not sealed.startswith(_FORMAT):
                raise InvalidTag
            password = self._cipher.decrypt(nonce, content, _bound(team_id, registry, username))
        except (InvalidTag, ValueError) as error:
            raise InvalidState(
                f"The password for the registry {registry} cannot be decrypted: the platform's secret has changed. Set it again."
            ) from error
        return Secret(password.decode())


def _bound(team_id: TeamId, registry: str, username: str) -> bytes:
    return f"{team_id}\n{registry}\n{username}".encode()
