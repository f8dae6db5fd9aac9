"""Stores the heartbeats of all hosts, many in one statement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from wrenn.base.errors import DatabaseUnavailable
from wrenn.base.ids import HostId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.db import Database
from wrenn.control.hosts import heartbeat_store
from wrenn.control.hosts.heartbeat_store import HeldCredentials, ReceivedHeartbeat

_log = logging.getLogger(__name__)

_INTERVAL_S: Final = 0.25
"""Between two statements. With 1,000 hosts each stores eight heartbeats, which costs little more than one."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Heartbeats that are stored together, at most one of each host; `stored`: those that were."""

    received: dict[HostId, ReceivedHeartbeat] = field(default_factory=dict[HostId, ReceivedHeartbeat])
    stored: asyncio.Future[Mapping[HostId, HeldCredentials]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Heartbeats:
    """Stores heartbeats: one that comes alone at once, those of the quarter of a second after it together."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next: _Batch | None = None
        self._tasks = OwnedTasks()
        self._is_storing = False

    async def record(self, received: ReceivedHeartbeat) -> HeldCredentials:
        """Store a heartbeat; as `heartbeat_store.record_heartbeat`. A cancellation leaves open whether it is stored.

        Raises:
            HostDeleted, NotFound, Unauthorized, DatabaseUnavailable.
        """
        batch = self._next = self._next or _Batch()
        if received.host_id not in batch.received:
            batch.received[received.host_id] = received
            if not self._is_storing:
                self._is_storing = True
                self._tasks.start("store heartbeats", self._store_until_none_waits())
            stored = await asyncio.shield(batch.stored)
            if received.host_id in stored:
                return stored[received.host_id]
        else:
            # An earlier one of this host waits in the batch, and must not overwrite this one.
            with suppress(DatabaseUnavailable):
                await asyncio.shield(batch.stored)
        return await heartbeat_store.record_heartbeat(self._database, received)

    async def close(self) -> None:
        """Stop storing; callers that wait are cancelled."""
        await self._tasks.close()

    async def _store_until_none_waits(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._next is not None:
                batch, self._next = self._next, None
                next_at = loop.time() + _INTERVAL_S
                await self._store(batch)
                await asyncio.sleep(max(0.0, next_at - loop.time()))
        finally:
            self._is_storing = False
            if self._next is not None:
                self._next.stored.cancel()

    async def _store(self, batch: _Batch) -> None:
        try:
            batch.stored.set_result(
                await heartbeat_store.record_usual_heartbeats(self._database, list(batch.received.values()))
            )
        except DatabaseUnavailable as error:
            batch.stored.set_exception(error)
            batch.stored.exception()  # seen, also if nobody waits any more
        except Exception:  # noqa: BLE001 - one heartbeat must not cost the others: each is stored alone, and its error is its own
            _log.exception("heartbeats not stored together", extra={"heartbeats": len(batch.received)})
            batch.stored.set_result({})
        finally:
            batch.stored.cancel()  # has an effect only after a cancellation of this task
