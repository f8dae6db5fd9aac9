"""Notifications between replicas by LISTEN/NOTIFY: hints that something changed, without data.

A hint may be lost or arrive twice. Whoever waits for a change reads the database again, after a hint and by a timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import ColumnElement, func

from wrenn.base.errors import DatabaseUnavailable
from wrenn.base.loops import Loop
from wrenn.base.on_failure import on_failure_await
from wrenn.control.db.engine import Database

_log = logging.getLogger(__name__)

CHANNEL: Final = "wrenn_sandboxes"
_RECONNECT_PAUSE_S: Final = 1.0
_PROBE_S: Final = 15.0
"""How often the listening connection is checked: one whose server fell silent would otherwise not be noticed."""

NotificationHandler = Callable[[str], object]
"""Is called with the payload of a notification."""


class Hints:
    """Sends hints and recognises those of this replica by `sender`, so that a replica does not wake itself."""

    def __init__(self, *, sender: str) -> None:
        self._sender = sender

    def notify(self) -> ColumnElement[None]:
        """Return the SQL expression that sends a hint when its statement is committed."""
        return func.pg_notify(CHANNEL, self._sender)

    def handler(
        self, on_hint: Callable[[], object], *, on_any: Callable[[], object] = lambda: None
    ) -> NotificationHandler:
        """Return the handler for `CHANNEL`: it calls `on_any` for every hint, and then `on_hint` for those of other replicas."""

        def handler(payload: str) -> None:
            on_any()
            if payload != self._sender:
                on_hint()

        return handler


class Listener:
    """Receives the notifications of channels on one connection, and connects again when it breaks.

    Notifications only save time: without them the timers find the changes.
    """

    def __init__(self, database: Database, channels: Mapping[str, NotificationHandler]) -> None:
        self._database = database
        self._channels = channels
        self.loop = Loop("listen for notifications")

    async def run(self) -> None:
        """Listen until cancelled. After each new connection the handlers of all channels are called with ""."""
        await self.loop.run(self._listen, every_s=_RECONNECT_PAUSE_S)

    async def _listen(self) -> None:
        """Listen until the connection breaks."""
        channels = self._channels
        broken = asyncio.Event()

        def ended(_connection: Any) -> None:
            broken.set()

        def received(_connection: Any, _pid: int, channel: str, payload: object) -> None:
            channels[channel](str(payload))

        async with self._database.session() as session, on_failure_await(session.invalidate):
            driver = (await session.get_raw_connection()).driver_connection
            if driver is None:
                raise DatabaseUnavailable("The listening connection is closed.")
            driver.add_termination_listener(ended)
            for channel in channels:
                await driver.add_listener(channel, received)
            for handler in channels.values():
                handler("")
            self.loop.succeeded()
            while not broken.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PROBE_S):
                        await broken.wait()
                await session.exec_driver_sql("SELECT 1")
