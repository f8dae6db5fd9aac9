"""This replica among the others: what all must have in common is compared at the start, and told while it runs."""

from __future__ import annotations

import hmac
import logging
from typing import Final

from wrenn.base.loops import Loop
from wrenn.base.secrets import Secret
from wrenn.control.db import Database
from wrenn.control.hosts import ca_store
from wrenn.control.hosts.authority import fingerprint
from wrenn.control.hosts.renewal import CertificateRenewal

_log = logging.getLogger(__name__)

_EVERY_S: Final = 10.0
_PURPOSE: Final = b"wrenn replica"


class Replica:
    """Tells the database which CA and which secret for tokens this replica has. Neither can be found out from what is stored."""

    def __init__(
        self, database: Database, replica_id: str, renewal: CertificateRenewal, token_secret: Secret
    ) -> None:
        self._database = database
        self._id = replica_id
        self._renewal = renewal
        self._secret_digest = hmac.digest(token_secret.reveal().encode(), _PURPOSE, "sha256").hex()
        self.loop = Loop("tell the internal CA")

    async def enter(self) -> None:
        """Compare what this replica has with the others.

        Raises:
            Conflict: it must not run, since it would refuse what the others issue.
        """
        authority = self._renewal.authority
        await ca_store.enter(self._database, self._id, authority.identity, self._secret_digest)
        for certificate in authority.expired:
            _log.warning(
                "a CA certificate that was trusted has expired: remove it",
                extra={"fingerprint": fingerprint(certificate)},
            )

    async def run(self) -> None:
        """Tell it at an interval, until cancelled."""
        await self.loop.run(self.report_once, every_s=_EVERY_S, at_once=False)

    async def report_once(self) -> None:
        """Report it now."""
        await ca_store.seen(self._database, self._id, self._renewal.authority.identity, self._secret_digest)

    async def leave(self) -> None:
        """Tell that this replica ends."""
        await self.loop.attempt(lambda: ca_store.leave(self._database, self._id), otherwise=None)
