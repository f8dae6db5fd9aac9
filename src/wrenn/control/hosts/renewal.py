"""Renews the control plane's client certificate while it runs, and takes a CA that was changed by a rotation."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from wrenn.base.loops import Loop
from wrenn.control.hosts.authority import Authority
from wrenn.control.hosts.client import HostClients
from wrenn.control.hosts.pki import ensure_certificate, locked, read_ca

_log = logging.getLogger(__name__)

_EVERY_S: Final = 10.0
"""How long a step of a CA rotation takes at most to be noticed; for the certificate alone it could be hours."""
_FILES: Final = ("trusted.pem", "control.pem")


class CertificateRenewal:
    """Renews the control plane's certificate when a third of its life is left, and has new connections use it.

    It also notices when another program that shares the folder has renewed it or has changed the CA. `given`: the CA of the
    settings, if there is one, which stays as it is while the program runs.

    Attributes:
        authority: the CA that signs, and those that are trusted.
    """

    def __init__(
        self, folder: Path, given: Authority | None, clients: HostClients, authority: Authority
    ) -> None:
        self.authority = authority
        self._folder = folder
        self._given = given
        self._clients = clients
        self._loaded = self._read()
        self.loop = Loop("renew certificates")

    async def run(self) -> None:
        """Look at the certificate at an interval, until cancelled."""
        await self.loop.run(self.renew_once, every_s=_EVERY_S)

    async def renew_once(self) -> None:
        """Renew the certificate if it is due, and load it if it is another than the one in use.

        Raises:
            InvalidRequest: the folder's CA cannot be read. The former one is used further on: a CA that is made anew is trusted by no
                host, so that is done at a start only.
        """
        try:
            self.authority = await asyncio.to_thread(self._read_authority)
        finally:
            await self._renew_certificate()

    async def _renew_certificate(self) -> None:
        found = await asyncio.to_thread(self._ensure)
        if found != self._loaded:
            self._clients.reload_tls()
            self._loaded = found
            _log.info("certificate of the control plane renewed")

    def _read_authority(self) -> Authority:
        if self._given is not None:
            return self._given
        with locked(self._folder):
            return read_ca(self._folder)

    def _ensure(self) -> list[bytes]:
        ensure_certificate(self._folder, self.authority)
        return self._read()

    def _read(self) -> list[bytes]:
        return [(self._folder / name).read_bytes() for name in _FILES]
