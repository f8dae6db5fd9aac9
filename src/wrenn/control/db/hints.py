"""Wake-ups between replicas by LISTEN/NOTIFY: hints that something changed, without data.

A hint may be lost or come twice; whoever waits looks at the database again, and also by a timer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import ColumnElement, func

from wrenn.base.errors import DatabaseUnavailable
from wrenn.control.db.engine import Database

_log = logging.getLogger(__name__)

CHANNEL: Final = "wrenn_sandboxes"
_RECONNECT_PAUSE_S: Final = 1.0
_PROBE_S: Final = 15.0
"""How often the listening connection is tried; a dead one is silent."""


class Hints:
    """Sends and receives hints. `sender` names this replica, so that it does not wake itself."""

    def __init__(self, database: Database, *, sender: str) -> None:
        self._database = database
        self._sender = sender

    def notify(self) -> ColumnElement[None]:
        """The expression that sends a hint when its statement is committed."""
        return func.pg_notify(CHANNEL, self._sender)

    async def listen(
        self, on_hint: Callable[[], object], *, on_any: Callable[[], object] = lambda: None
    ) -> None:
        """Call `on_hint` for each hint of another replica, and after each new connection. Runs until cancelled.

        `on_any` is called before it, and for this replica's own hints too.
        """
        while True:
            try:
                await self._listen_once(on_hint, on_any)
            except Exception as error:  # noqa: BLE001 - hints are an optimisation; the timers go on without them
                _log.warning("not listening for hints", extra={"cause": repr(error)})
            await asyncio.sleep(_RECONNECT_PAUSE_S)

    async def _listen_once(self, on_hint: Callable[[], object], on_any: Callable[[], object]) -> None:
        def received(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
            on_any()
            if payload != self._sender:
                on_hint()

        async with self._database.session() as session:
            driver = (await session.get_raw_connection()).driver_connection
            if driver is None:
                raise DatabaseUnavailable("The listening connection is closed.")
            await driver.add_listener(CHANNEL, received)
            try:
                on_any()
                on_hint()
                while True:
                    await asyncio.sleep(_PROBE_S)
                    await session.exec_driver_sql("SELECT 1")
            finally:
                if not driver.is_closed():
                    await asyncio.shield(driver.remove_listener(CHANNEL, received))
