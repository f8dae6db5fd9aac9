"""Statements on which CAs replicas and agents have: what is compared at the start of a replica, and what a CA rotation waits for."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.errors import Conflict
from wrenn.base.ids import HostId
from wrenn.control.db import Database, Transaction, span_s
from wrenn.control.hosts.authority import CaIdentity
from wrenn.control.hosts.tables import control_replicas, host_refresh_tokens, hosts
from wrenn.control.hosts.types import HostStatus

_replica = control_replicas.c
_refresh = host_refresh_tokens.c
_LOCK: Final = 0x7772656E6F
_SILENT_AFTER_S: Final = 60.0
"""A replica that runs says so every ten seconds."""
_FORGOTTEN_AFTER_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class HostCa:
    """Which CAs a host's agent has, as far as its heartbeats show. `held` is None: it has none that is known."""

    host_id: HostId
    name: str
    status: HostStatus
    last_heartbeat_at: datetime | None
    held: CaIdentity | None


def trusted_text(identity: CaIdentity) -> str:
    """Return the trusted CAs as they are stored."""
    return ",".join(sorted(identity.trusted))


def identity_of(signer: str, trusted: str) -> CaIdentity | None:
    """Return what was stored; None: nothing was."""
    return CaIdentity(signer, frozenset(trusted.split(","))) if signer else None


async def enter(database: Database, replica: str, identity: CaIdentity, secret_digest: str) -> None:
    """Note a replica that starts, if it fits to the one that was seen last.

    Raises:
        Conflict: it has another CA or another secret, and would refuse what the others issued; the message says what to do.
    """

    async def enter(tx: Transaction) -> None:
        await tx.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        newest = select(control_replicas).order_by(_replica.seen_at.desc()).limit(1)
        former = (await tx.execute(newest)).one_or_none()
        if former is not None:
            _check(former, identity, secret_digest)
        await tx.execute(_upsert(replica, identity, secret_digest))
        await tx.execute(
            delete(control_replicas).where(_replica.seen_at < func.now() - span_s(_FORGOTTEN_AFTER_S))
        )

    await database.transaction(enter)


def _check(former: Any, identity: CaIdentity, secret_digest: str) -> None:
    way_out = " If it was changed on purpose, stop all replicas and run `wrenn admin accept-secrets` before this one starts again"
    if not hmac.compare_digest(former.secret_digest, secret_digest):
        raise Conflict(
            "This replica's secret for tokens is not the one that the platform uses: set the same WRENN_JWT_SECRET (or the same"
            f" jwt.secret in the data folder) as the other replicas.{way_out}: users must log in again; hosts get new tokens by themselves."
        )
    known = identity_of(former.ca_signer, former.ca_trusted)
    if known is not None and not identity.agrees_with(known):
        raise Conflict(
            f"This replica's internal CA ({identity.signer[:16]}) and the platform's ({known.signer[:16]}) do not trust each"
            " other: set the same WRENN_CA_CERT and WRENN_CA_KEY (or the same pki/ca.pem and pki/ca.key in the data folder) as the"
            " other replicas; to change the CA use `wrenn admin rotate-ca`."
            f"{way_out}: calls to a host then fail until its next heartbeat, with which it takes the new CA."
        )


async def seen(database: Database, replica: str, identity: CaIdentity, secret_digest: str) -> None:
    """Note that a replica runs, and its CA."""
    await database.execute(_upsert(replica, identity, secret_digest))


async def leave(database: Database, replica: str) -> None:
    """Note that a replica has ended. What it had is remembered."""
    await database.execute(update(control_replicas).where(_replica.id == replica).values(is_running=False))


async def forget(database: Database) -> None:
    """Forget what all replicas had: the next one that starts is not compared with anything."""
    await database.execute(delete(control_replicas))


async def running_replicas(database: Database) -> Sequence[tuple[str, CaIdentity]]:
    """Return the replicas that run, and their CAs."""
    query = select(control_replicas).where(
        _replica.is_running, _replica.seen_at > func.now() - span_s(_SILENT_AFTER_S)
    )
    rows = await database.execute(query, repeatable=True)
    return [(row.id, CaIdentity(row.ca_signer, frozenset(row.ca_trusted.split(",")))) for row in rows]


async def cas_of_hosts(database: Database) -> Sequence[HostCa]:
    """Return which CAs each host that has registered holds: those that came with the oldest refresh token that is valid.

    Older ones are revoked by the first heartbeat after a refresh, so that the agent has at least what came with this one.
    """
    oldest = (
        select(_refresh.ca_signer, _refresh.ca_trusted)
        .where(
            _refresh.host_id == hosts.c.id, _refresh.revoked_at.is_(None), _refresh.expires_at > func.now()
        )
        .order_by(_refresh.created_at)
        .limit(1)
        .lateral("held")
    )
    query = (
        select(
            hosts.c.id, hosts.c.name, hosts.c.status, hosts.c.last_heartbeat_at,
            oldest.c.ca_signer, oldest.c.ca_trusted,
        )
        .outerjoin(oldest, text("true"))
        .where(hosts.c.deleted_at.is_(None), hosts.c.address != "")
        .order_by(hosts.c.name, hosts.c.id)
    )  # fmt: skip
    rows = await database.execute(query, repeatable=True)
    return [
        HostCa(
            HostId(row.id),
            row.name,
            HostStatus(row.status),
            row.last_heartbeat_at,
            identity_of(row.ca_signer or "", row.ca_trusted or ""),
        )
        for row in rows
    ]


def _upsert(replica: str, identity: CaIdentity, secret_digest: str) -> Any:
    now: ColumnElement[Any] = func.clock_timestamp()
    values = {
        "ca_signer": identity.signer,
        "ca_trusted": trusted_text(identity),
        "secret_digest": secret_digest,
        "is_running": True,
        "seen_at": now,
    }
    return (
        upsert(control_replicas)
        .values(id=replica, **values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
    )
