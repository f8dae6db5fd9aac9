"""Access tokens of guests, derived from a key, so that no token is stored."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from wrenn.base.secrets import Secret

_KEY_B: Final = 32


class Tokens:
    """Derives tokens: HMAC-SHA256 of a name with a key that only root can read."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == _KEY_B, "the agent's key is torn"
        self._key = key

    @classmethod
    def load(cls, path: Path) -> Tokens:
        """Read the key; create it if it does not exist."""
        if not path.exists():
            scratch = path.with_name(f".{path.name}.new")
            with contextlib.suppress(FileNotFoundError):
                scratch.unlink()
            fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(_KEY_B))
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(path)
        return cls(path.read_bytes())

    def of(self, name: str) -> Secret:
        """Return the token of the sandbox or base `name`."""
        return Secret(hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest())
