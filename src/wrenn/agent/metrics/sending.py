"""Sends samples of sandboxes to the control plane, which stores them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from wrenn.agent.enrolment.control_client import ControlClient
from wrenn.agent.enrolment.credentials import Credentials
from wrenn.agent.metrics.outbox import Outbox
from wrenn.base.errors import InvalidRequest, TooLarge, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.loops import Loop

_log = logging.getLogger(__name__)

_EVERY_S: Final = 30.0
_AFTER_FAILURE_S: Final = 5.0


class MetricsSender:
    """Sends what is in the outbox; a file is deleted once the control plane has stored it. One that was sent twice is stored once.

    `credentials` returns those that the host has now. `control_url`: empty: that of the credentials.
    """

    def __init__(
        self,
        outbox: Outbox,
        credentials: Callable[[], Credentials],
        *,
        control_url: str,
        control_ca: Path | None,
    ) -> None:
        self._outbox = outbox
        self._credentials = credentials
        self._control_url = control_url
        self._control_ca = control_ca
        self._turn = asyncio.Lock()
        self.loop = Loop("send samples of sandboxes")
        outbox.on_added = self.loop.wake

    async def run(self) -> None:
        """Send what is there, and again whenever something is added, until cancelled."""
        await self.loop.run(self.send_all, every_s=_EVERY_S, after_failure_s=_AFTER_FAILURE_S)

    async def finish(self, *, timeout_s: float) -> None:
        """Try to send everything before the agent ends. What is not sent then stays for the next agent."""
        with suppress(WrennError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.send_all()

    async def send_all(self) -> None:
        """Send all files, the oldest first, several in one request.

        Raises:
            WrennError: the control plane does not take some now; they and the later ones stay.
        """
        async with self._turn:
            body, files = await asyncio.to_thread(self._outbox.next_body)
            if not files:
                return
            credentials = self._credentials()
            url = self._control_url or credentials.control_url
            async with ControlClient(url, self._control_ca) as client:
                while files:
                    await self._send(client, credentials, body, files)
                    body, files = await asyncio.to_thread(self._outbox.next_body)

    async def _send(
        self, client: ControlClient, credentials: Credentials, body: bytes, files: Sequence[Path]
    ) -> None:
        await fault_point("agent.metrics.before_send")
        try:
            await client.send_metrics(credentials.host_id, credentials.token, body)
        except (InvalidRequest, TooLarge) as error:
            # It would be refused again.
            _log.warning("samples of sandboxes refused", extra={"files": len(files), "cause": error.message})
        await fault_point("agent.metrics.after_send")
        for path in files:
            await asyncio.to_thread(self._outbox.remove, path)
