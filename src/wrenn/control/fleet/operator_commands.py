"""What the operator does to hosts on the server, past the API: `wrenn up` registers its own machine."""

from __future__ import annotations

from wrenn.base.errors import Conflict
from wrenn.base.ids import HostId
from wrenn.base.secrets import Secret
from wrenn.control.audit import SYSTEM, record
from wrenn.control.db import Database, Transaction
from wrenn.control.fleet.service import created, issue_registration_token
from wrenn.control.hosts import NewHost, record_store


async def is_registered(database_url: str, host_id: HostId) -> bool:
    """Whether there is a host with this id that has registered and was not deleted."""
    database = Database(database_url)
    try:
        host = await record_store.find(database, host_id, None)
    finally:
        await database.close()
    return host is not None and host.address != ""


async def issue_local_token(database_url: str, *, name: str) -> tuple[HostId, Secret]:
    """Issue a registration token for the regular host of this name, whatever its state; it is created if there is none.

    Earlier tokens of the host stop working.

    Raises:
        DatabaseUnavailable. Conflict: somebody else creates the host at this moment.
    """

    async def issue(tx: Transaction) -> tuple[HostId, Secret]:
        host = await record_store.lock_regular(tx, name)
        if host is None:
            host = await record_store.insert_host(tx, NewHost(name), by=None)
            if host is None:
                raise Conflict(f"The host {name} is being created just now: try again.")
            await record(tx, host.log_team, SYSTEM, created(host), str(host.host_id))
        return host.host_id, await issue_registration_token(tx, host, SYSTEM, by=None)

    database = Database(database_url)
    try:
        return await database.transaction(issue)
    finally:
        await database.close()
