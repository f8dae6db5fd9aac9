"""Signed URLs of the control plane itself, for stores that cannot sign: `/v1/store/{key}?expires=…&signature=…`."""

from __future__ import annotations

import hmac
import re
from typing import Final
from urllib.parse import quote

from wrenn.base.clock import Clock
from wrenn.base.errors import Forbidden
from wrenn.base.secrets import Secret
from wrenn.protocol.api import STORE_PREFIX

_PURPOSE: Final = b"wrenn store url 1"
_KEY: Final = re.compile(r"[a-z0-9-]{1,64}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){1,5}")
_EXPIRES: Final = re.compile(r"[1-9][0-9]{0,11}")
_REFUSED: Final = "The signature of this URL is not valid, or it has expired."


class UrlSigner:
    """Signs URLs of objects for one method and until a time, and verifies them."""

    def __init__(self, secret: Secret, clock: Clock) -> None:
        # A key of its own: what this signs is no token, and no token is this.
        self._key = hmac.digest(secret.reveal().encode(), _PURPOSE, "sha256")
        self._clock = clock

    def sign(self, method: str, key: str, expires_s: float) -> str:
        """Return the path and query of a URL by which this object can be read or written (`GET`, `PUT`) for so long."""
        expires = str(int(self._clock.now().timestamp() + expires_s))
        return f"{STORE_PREFIX}/{quote(key)}?expires={expires}&signature={self._mac(method, key, expires)}"

    def verify(self, method: str, key: str, expires: str, signature: str) -> None:
        """Return if the URL was signed for this method and object and has not expired.

        Raises:
            Forbidden.
        """
        is_well_formed = (
            signature.isascii()
            and _EXPIRES.fullmatch(expires) is not None
            and _KEY.fullmatch(key) is not None
        )
        if not is_well_formed or not hmac.compare_digest(signature, self._mac(method, key, expires)):
            raise Forbidden(_REFUSED)
        if int(expires) <= self._clock.now().timestamp():
            raise Forbidden(_REFUSED)

    def _mac(self, method: str, key: str, expires: str) -> str:
        return hmac.digest(self._key, f"{method}\n{key}\n{expires}".encode(), "sha256").hex()
