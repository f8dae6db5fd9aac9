"""Leases on rows: the right of one replica to work on a row until a time, by the database's clock.

A table with leases has the columns `id`, `lease_owner` and `lease_until`. A worker takes a lease with the statement that finds due rows
(`is_free`, `grant`), renews it while it works (`HeldLeases`), and writes its result only where `is_held`. When its replica dies, the
lease runs out and another replica takes the row over; the late result of the first one then touches no row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Table, and_, func, or_, select, update

from wrenn.base.loops import Loop
from wrenn.control.db.engine import Database
from wrenn.control.db.moments import in_s

RELEASED: Final[dict[str, Any]] = {"lease_owner": None, "lease_until": None}
"""The values that give a lease back."""


class Leases:
    """The leases on the rows of one table, as parts of statements."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._c = table.c

    @staticmethod
    def grant(owner: Any, lease_s: Any) -> dict[str, Any]:
        """Return the values that give a lease to `owner`. Both may be bind parameters."""
        return {"lease_owner": owner, "lease_until": in_s(lease_s)}

    def is_free(self) -> ColumnElement[bool]:
        """SQL condition: nobody has a lease, or it has run out."""
        return or_(self._c.lease_until.is_(None), self._c.lease_until < func.now())

    def is_held(self, row_id: UUID, owner: str, *, version: int | None = None) -> ColumnElement[bool]:
        """SQL condition: this row is still leased by `owner`, and has not been written since `version`."""
        conditions = [self._c.id == row_id, self._c.lease_owner == owner]
        if version is not None:
            conditions.append(self._c.version == version)
        return and_(*conditions)

    async def renew(self, database: Database, ids: Collection[UUID], *, owner: str, lease_s: float) -> None:
        """Extend the leases that `owner` still has on these rows; a row that is locked now is left for the next renewal.

        It could otherwise keep the leases on all the others from being renewed.
        """
        renewable = (
            select(self._c.id)
            .where(self._c.id.in_(list(ids)), self._c.lease_owner == owner)
            .order_by(self._c.id)
            .with_for_update(skip_locked=True)
        )
        await database.execute(
            update(self.table).where(self._c.id.in_(renewable)).values(lease_until=in_s(lease_s))
        )


class HeldLeases:
    """The leases that this replica holds on the rows of one table. `run` renews them three times within their duration.

    Where that fails another replica may take a row over, which `Leases.is_held` then shows.
    """

    def __init__(self, database: Database, leases: Leases, *, owner: str, lease_s: float) -> None:
        self.owner = owner
        self.lease_s = lease_s
        self._database = database
        self._leases = leases
        self._held: Counter[UUID] = Counter()
        self.loop = Loop(f"renew leases on {leases.table.name}")

    @contextmanager
    def renewed(self, row_id: UUID) -> Generator[None]:
        """Renew the lease on this row while the body runs."""
        self._held[row_id] += 1
        try:
            yield
        finally:
            self._held[row_id] -= 1
            if not self._held[row_id]:
                del self._held[row_id]

    async def run(self) -> None:
        """Renew the leases at an interval, until cancelled."""
        await self.loop.run(self._renew, every_s=self.lease_s / 3)

    async def _renew(self) -> None:
        if self._held:
            await self._leases.renew(self._database, list(self._held), owner=self.owner, lease_s=self.lease_s)
