"""Leases on background loops that one replica at a time is to run, by the database's clock."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, Column, Table, Text, delete, func, or_
from sqlalchemy.dialects.postgresql import insert

from wrenn.control.db.engine import Database
from wrenn.control.db.metadata import metadata
from wrenn.control.db.moments import in_s

loop_leases = Table(
    "loop_leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("lease_until", TIMESTAMP(timezone=True), nullable=False),
)


class LoopLease:
    """The lease on the loop of this name. A replica takes or renews it before each run; when it dies, another one takes it over."""

    def __init__(self, database: Database, name: str, *, owner: str, lease_s: float) -> None:
        self._database = database
        self._name = name
        self._owner = owner
        self._lease_s = lease_s

    async def take(self) -> bool:
        """Take the lease or renew it; returns whether this replica has it now."""
        row = insert(loop_leases).values(name=self._name, owner=self._owner, lease_until=in_s(self._lease_s))
        taken = await self._database.execute(
            row.on_conflict_do_update(
                index_elements=[loop_leases.c.name],
                set_={"owner": row.excluded.owner, "lease_until": row.excluded.lease_until},
                where=or_(loop_leases.c.owner == self._owner, loop_leases.c.lease_until < func.now()),
            ).returning(loop_leases.c.name)
        )
        return taken.one_or_none() is not None

    async def give_back(self) -> None:
        """Let another replica take the lease at once. Idempotent."""
        await self._database.execute(
            delete(loop_leases).where(loop_leases.c.name == self._name, loop_leases.c.owner == self._owner)
        )
