"""Statements on the credentials of hosts: registration tokens and refresh tokens. Times are the database's.

A change holds the lock of its host. A refresh token is revoked when a later one is first used, so that an answer which is
lost costs no host its credentials.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import case, delete, exists, func, insert, or_, select, update

from wrenn.base.errors import NotFound, Unauthorized
from wrenn.base.ids import HostId, TeamId, UserId, random_hex
from wrenn.base.secrets import Secret
from wrenn.base.units import GIB, MIB
from wrenn.control.db import Database, Transaction, in_s
from wrenn.control.hosts.authority import CaIdentity, SignedCertificate
from wrenn.control.hosts.ca_store import trusted_text
from wrenn.control.hosts.records import (
    REFRESH_LIFE_S,
    REFUSED_HOST,
    REGISTRATION_LIFE_S,
    TOKEN_PATTERN,
    HostDeleted,
    Machine,
    RefreshToken,
)
from wrenn.control.hosts.tables import host_refresh_tokens, host_registration_tokens, hosts
from wrenn.control.hosts.types import HostStatus
from wrenn.control.identity import Role, users, users_teams

_registration = host_registration_tokens.c
_refresh = host_refresh_tokens.c
_TOKEN_B: Final = 32
_UNUSED_LIMIT: Final = 8
"""Refresh tokens of a host that were issued and never used, as answers were lost."""
_TOKENS_LIMIT: Final = 16
"""Refresh tokens of a host in all, of which those that are revoked only tell a former agent what became of its host."""


_administers_team: Final = exists().where(
    users_teams.c.team_id == hosts.c.team_id,
    users_teams.c.user_id == users.c.id,
    users_teams.c.role.in_((Role.OWNER, Role.ADMIN)),
)
_MAKER_ADMINISTERS: Final = (
    exists()
    .where(
        users.c.id == _registration.created_by,
        users.c.status == "active",
        hosts.c.id == _registration.host_id,
        or_(users.c.is_admin, _administers_team),
    )
    .correlate(host_registration_tokens)
)
"""SQL: who made a registration token may still do so. It lets a machine in that gets the sandboxes of others."""


async def issue_registration_token(tx: Transaction, host_id: HostId, *, by: UserId | None) -> Secret:
    """Create a token for one registration of a locked host. Earlier ones stop working."""
    await _delete_registration_tokens(tx, [host_id])
    token = Secret(random_hex(_TOKEN_B))
    await tx.execute(
        insert(host_registration_tokens).values(
            id=uuid.uuid4(),
            host_id=host_id.value,
            token_hash=token.sha256_hex(),
            created_by=None if by is None else by.value,
            expires_at=in_s(REGISTRATION_LIFE_S),
        )
    )
    return token


async def host_of_registration_token(tx: Transaction, token: str) -> HostId | None:
    """Return the host that a token may register; None: the token is not valid. It is not used up by this."""
    if TOKEN_PATTERN.fullmatch(token) is None:
        return None
    found = await tx.execute(select(_registration.host_id).where(*_usable(token)))
    row = found.one_or_none()
    return None if row is None else HostId(row.host_id)


async def consume_registration_token(tx: Transaction, token: str) -> bool:
    """Use up a token of a locked host; False: another registration was first."""
    used = await tx.execute(
        delete(host_registration_tokens).where(*_usable(token)).returning(_registration.id)
    )
    return used.one_or_none() is not None


def _usable(token: str) -> tuple[Any, ...]:
    return (
        _registration.token_hash == Secret(token).sha256_hex(),
        _registration.expires_at > func.now(),
        or_(_registration.created_by.is_(None), _MAKER_ADMINISTERS),
    )


async def record_registration(
    tx: Transaction,
    host_id: HostId,
    url: str,
    machine: Machine,
    certificate: SignedCertificate,
    *,
    cas: CaIdentity,
) -> RefreshToken:
    """Store what registered a locked host, in place of what had registered it before. Returns its refresh token.

    As after a refresh, former ones stay valid until the new one is used: an agent that cannot store what it got goes on with what it has.

    `cas`: which CA signed, and which the agent is told to trust.
    """
    await tx.execute(
        update(hosts)
        .where(hosts.c.id == host_id.value)
        .values(
            address=url,
            arch=machine.arch,
            cpu_cores=machine.cpu_cores,
            memory_b=machine.memory_mb * MIB,
            disk_b=machine.disk_gb * GIB,
            **_certificate(certificate),
        )
    )
    return await _issue_refresh_token(tx, host_id, cas)


async def host_of_refresh_token(tx: Transaction, token: str) -> HostId | None:
    """Return the host that a refresh token was issued for, valid or not; None: it is not known."""
    if TOKEN_PATTERN.fullmatch(token) is None:
        return None
    found = await tx.execute(
        select(_refresh.host_id).where(_refresh.token_hash == Secret(token).sha256_hex())
    )
    row = found.one_or_none()
    return None if row is None else HostId(row.host_id)


async def rotate_refresh_token(
    tx: Transaction, host_id: HostId, token: str, cas: CaIdentity
) -> RefreshToken | None:
    """Issue another refresh token of a locked host beside this one, and revoke those before it; None: it is not valid."""
    found = await tx.execute(
        select(_refresh.created_at).where(
            _refresh.token_hash == Secret(token).sha256_hex(),
            _refresh.revoked_at.is_(None),
            _refresh.expires_at > func.now(),
        )
    )
    row = found.one_or_none()
    if row is None:
        return None
    of_host = _refresh.host_id == host_id.value
    await tx.execute(
        update(host_refresh_tokens)
        .where(of_host, _refresh.revoked_at.is_(None), _refresh.created_at < row.created_at)
        .values(revoked_at=func.now())
    )
    unused = (
        select(_refresh.id)
        .where(of_host, _refresh.created_at > row.created_at)
        .order_by(_refresh.created_at.desc())
        .offset(_UNUSED_LIMIT - 1)
    )
    await tx.execute(delete(host_refresh_tokens).where(_refresh.id.in_(unused)))
    return await _issue_refresh_token(tx, host_id, cas)


async def record_certificate(
    tx: Transaction, host_id: HostId, certificate: SignedCertificate, *, url: str | None
) -> None:
    """Store the certificate of a locked host, and its address unless that is None."""
    values = _certificate(certificate) | ({} if url is None else {"address": url})
    await tx.execute(update(hosts).where(hosts.c.id == host_id.value).values(values))


async def revoke_all(tx: Transaction, host_ids: Collection[HostId]) -> None:
    """Revoke all credentials of locked hosts."""
    await _delete_registration_tokens(tx, host_ids)
    await _revoke_refresh_tokens(tx, host_ids)


async def withdraw_certificate(tx: Transaction, host_id: HostId) -> None:
    """Have nobody call a locked host until it registers again, and nobody accept the certificates that it has, whoever has their keys.

    It is forgotten where the host is called, and an online host becomes unreachable at once.
    """
    values = {
        "address": "",
        "cert_fingerprint": "",
        "cert_epoch": hosts.c.cert_epoch + 1,
        "is_reachable": False,
        "silent_since": case((hosts.c.is_reachable, func.now()), else_=hosts.c.silent_since),
        "status": case(
            (hosts.c.status == HostStatus.ONLINE, HostStatus.UNREACHABLE.value), else_=hosts.c.status
        ),
        "updated_at": func.now(),
    }
    await tx.execute(update(hosts).where(hosts.c.id == host_id.value).values(values))


def _certificate(certificate: SignedCertificate) -> dict[str, Any]:
    return {
        "cert_fingerprint": certificate.fingerprint,
        "cert_expires_at": certificate.expires_at,
        "updated_at": func.now(),
    }


async def _issue_refresh_token(tx: Transaction, host_id: HostId, cas: CaIdentity) -> RefreshToken:
    """Create a refresh token of a locked host, and delete revoked ones that are older than the newest `_TOKENS_LIMIT`."""
    token_id, token = uuid.uuid4(), Secret(random_hex(_TOKEN_B))
    await tx.execute(
        insert(host_refresh_tokens).values(
            id=token_id,
            host_id=host_id.value,
            token_hash=token.sha256_hex(),
            expires_at=in_s(REFRESH_LIFE_S),
            # Not that of the transaction, which may have waited for the lock of the host.
            created_at=func.clock_timestamp(),
            ca_signer=cas.signer,
            ca_trusted=trusted_text(cas),
            cert_epoch=select(hosts.c.cert_epoch).where(hosts.c.id == host_id.value).scalar_subquery(),
        )
    )
    of_host = _refresh.host_id == host_id.value
    newest = select(_refresh.id).where(of_host).order_by(_refresh.created_at.desc()).limit(_TOKENS_LIMIT)
    await tx.execute(
        delete(host_refresh_tokens).where(
            of_host, _refresh.revoked_at.is_not(None), _refresh.id.not_in(newest)
        )
    )
    return RefreshToken(token_id, token)


async def _delete_registration_tokens(tx: Transaction, host_ids: Collection[HostId]) -> None:
    among = _registration.host_id.in_([host_id.value for host_id in host_ids])
    await tx.execute(delete(host_registration_tokens).where(among))


async def _revoke_refresh_tokens(tx: Transaction, host_ids: Collection[HostId]) -> None:
    among = _refresh.host_id.in_([host_id.value for host_id in host_ids])
    await tx.execute(
        update(host_refresh_tokens).where(among, _refresh.revoked_at.is_(None)).values(revoked_at=func.now())
    )


async def owner_of_caller(database: Database, host_id: HostId, token_id: uuid.UUID) -> TeamId | None:
    """Return whose host it is that sent a host token which came with this refresh token; None: the platform's.

    Raises:
        HostDeleted. NotFound: there was never such a host. Unauthorized: the refresh token was revoked.
    """
    is_valid = exists(
        select(_refresh.id).where(
            _refresh.id == token_id, _refresh.host_id == host_id.value, _refresh.revoked_at.is_(None)
        )
    )
    found = await database.execute(
        select(hosts.c.team_id, hosts.c.deleted_at, is_valid.label("is_valid")).where(
            hosts.c.id == host_id.value
        ),
        repeatable=True,
    )
    row = found.one_or_none()
    if row is None:
        raise NotFound(f"There is no host {host_id}.")
    if row.deleted_at is not None:
        raise HostDeleted(f"Host {host_id} was deleted.")
    if not row.is_valid:
        raise Unauthorized(REFUSED_HOST)
    return None if row.team_id is None else TeamId(row.team_id)


async def delete_expired(database: Database) -> None:
    """Delete registration and refresh tokens that have expired."""
    for tokens in (host_registration_tokens, host_refresh_tokens):
        await database.execute(delete(tokens).where(tokens.c.expires_at < func.now()))
