"""Statements that store heartbeats: one for those that change nothing but the host's columns, and one for all others.

Times are the database's.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Executable,
    Label,
    Select,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    column,
    exists,
    func,
    literal,
    not_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from wrenn.base.errors import NotFound, Unauthorized
from wrenn.base.ids import HostId
from wrenn.control.audit import Status
from wrenn.control.db import Database
from wrenn.control.hosts.authority import CaIdentity
from wrenn.control.hosts.ca_store import identity_of
from wrenn.control.hosts.records import REFUSED_HOST, HostDeleted
from wrenn.control.hosts.store import (
    REPORT_COLUMNS,
    log_team,
    marked,
    report_columns,
    report_values,
    reported_columns,
)
from wrenn.control.hosts.tables import host_refresh_tokens, hosts
from wrenn.control.hosts.types import HostHeartbeat, HostStatus

_refresh = host_refresh_tokens.c


@dataclass(frozen=True, slots=True)
class ReceivedHeartbeat:
    """A heartbeat of a host, which was sent with a host token that came with the refresh token `token_id`."""

    host_id: HostId
    token_id: uuid.UUID
    heartbeat: HostHeartbeat


@dataclass(frozen=True, slots=True)
class HeldCredentials:
    """What the agent of a host was given with the token that it sends its heartbeats with.

    Attributes:
        cas: which CA signed its certificate, and which it trusts. None: it is from before a version that stored them.
        is_outdated: its certificate does not say that it is from after the last withdrawal, so the host is not reached. It was signed by a
            replica of a release that does not know withdrawals.
    """

    cas: CaIdentity | None
    is_outdated: bool


def _is_outdated(of_token: ColumnElement[int | None], of_host: ColumnElement[int]) -> Label[bool]:
    return (func.coalesce(of_token, 0) < of_host).label("is_outdated")


def _heartbeat() -> Select[*tuple[Any, ...]]:
    host_id, token_id = bindparam("of_host", type_=Uuid), bindparam("of_token", type_=Uuid)
    was = (
        select(hosts.c.id, hosts.c.status, hosts.c.deleted_at, hosts.c.cert_epoch, log_team(hosts.c.team_id))
        .where(hosts.c.id == host_id)
        .with_for_update(key_share=True)
        .cte("was")
    )
    token = (
        select(_refresh.id, _refresh.created_at, _refresh.ca_signer, _refresh.ca_trusted, _refresh.cert_epoch)
        .where(_refresh.id == token_id, _refresh.host_id == host_id, _refresh.revoked_at.is_(None))
        .cte("token")
    )
    seen = (
        update(hosts)
        .where(hosts.c.id == was.c.id, was.c.deleted_at.is_(None), exists(select(token.c.id)))
        .values(
            # The token may have been revoked while this statement waited for the row; then its certificate is withdrawn.
            status=case(
                (
                    and_(
                        hosts.c.address == "",
                        hosts.c.cert_fingerprint == "",
                        was.c.status == HostStatus.UNREACHABLE,
                    ),
                    was.c.status,
                ),
                else_=HostStatus.ONLINE.value,
            ),
            last_heartbeat_at=func.now(),
            inventory=bindparam("of_inventory", type_=Text),
            updated_at=func.now(),
            **report_columns(),
        )
        .returning(hosts.c.id)
        .cte("seen")
    )
    is_seen = exists(select(seen.c.id))
    revoked = (
        update(host_refresh_tokens)
        .where(
            _refresh.host_id == host_id,
            _refresh.revoked_at.is_(None),
            _refresh.created_at < select(token.c.created_at).scalar_subquery(),
            is_seen,
        )
        .values(revoked_at=func.now())
        .returning(literal(1).label("one"))
        .cte("revoked")
    )
    back = select(was.c.id, was.c.team_id).where(was.c.status == HostStatus.UNREACHABLE, is_seen).cte("back")
    return select(
        was.c.deleted_at.is_not(None).label("is_deleted"),
        is_seen.label("is_seen"),
        select(token.c.ca_signer).scalar_subquery().label("ca_signer"),
        select(token.c.ca_trusted).scalar_subquery().label("ca_trusted"),
        _is_outdated(select(token.c.cert_epoch).scalar_subquery(), was.c.cert_epoch),
    ).add_cte(revoked, *marked(back, "marked_up", Status.SUCCESS))


_HEARTBEAT: Final = _heartbeat()


async def record_heartbeat(database: Database, received: ReceivedHeartbeat) -> HeldCredentials:
    """Store a heartbeat of a host, in one statement.

    Refresh tokens before the one that its token came with are revoked: the agent has the answer that it came in. Returns what came with it.

    Raises:
        HostDeleted. NotFound: there was never such a host. Unauthorized: the refresh token was revoked.
    """
    values = {
        "of_host": received.host_id.value,
        "of_token": received.token_id,
        "of_inventory": received.heartbeat.inventory,
        **report_values(received.heartbeat.report),
    }
    row = (await database.execute(_HEARTBEAT, values)).one_or_none()
    if row is None:
        raise NotFound(f"There is no host {received.host_id}.")
    if row.is_deleted:
        raise HostDeleted(f"Host {received.host_id} was deleted.")
    if not row.is_seen:
        raise Unauthorized(REFUSED_HOST)
    return _held(row)


_GIVEN_TYPES: Final = {"id": Uuid(), "token_id": Uuid(), "inventory": Text()}
_REPORT_TYPES: Final = {name: hosts.c[name].type for name in REPORT_COLUMNS}


def _usual_heartbeats() -> Executable:
    columns = [column(name, type_) for name, type_ in (_GIVEN_TYPES | _REPORT_TYPES).items()]
    given: Any = (
        func.jsonb_to_recordset(bindparam("heartbeats", type_=JSONB))
        .table_valued(*columns, name="given")
        .render_derived(with_types=True)
    )
    earlier = host_refresh_tokens.alias("earlier")
    has_earlier_token = exists(
        select(earlier.c.id).where(
            earlier.c.host_id == hosts.c.id,
            earlier.c.revoked_at.is_(None),
            earlier.c.created_at < _refresh.created_at,
        )
    )
    usual = (
        select(
            *given.c,
            _refresh.ca_signer,
            _refresh.ca_trusted,
            _is_outdated(_refresh.cert_epoch, hosts.c.cert_epoch),
        )
        .select_from(
            given.join(hosts, hosts.c.id == given.c.id).join(
                host_refresh_tokens, and_(_refresh.id == given.c.token_id, _refresh.host_id == hosts.c.id)
            )
        )
        .where(
            hosts.c.status == HostStatus.ONLINE,
            hosts.c.deleted_at.is_(None),
            _refresh.revoked_at.is_(None),
            not_(has_earlier_token),
        )
        .with_for_update(key_share=True, of=hosts, skip_locked=True)
        .cte("usual")
    )
    return (
        update(hosts)
        .where(hosts.c.id == usual.c.id)
        .values(
            last_heartbeat_at=func.now(),
            inventory=usual.c.inventory,
            updated_at=func.now(),
            **{name: func.coalesce(usual.c[name], hosts.c[name]) for name in REPORT_COLUMNS},
        )
        .returning(hosts.c.id, usual.c.ca_signer, usual.c.ca_trusted, usual.c.is_outdated)
    )


_USUAL_HEARTBEATS: Final = _usual_heartbeats()


async def record_usual_heartbeats(
    database: Database, received: Collection[ReceivedHeartbeat]
) -> Mapping[HostId, HeldCredentials]:
    """Store those of the heartbeats that only renew what is known of their host, at most one of each host; one statement.

    Returns as `record_heartbeat` for each that was stored. Not stored, and left to that function, are those of hosts that are not
    online, of tokens that are not valid, of tokens that replace others, and of hosts that another transaction has locked:
    no host holds up the others.
    """
    found = await database.execute(_USUAL_HEARTBEATS, {"heartbeats": [_given(each) for each in received]})
    return {HostId(row.id): _held(row) for row in found}


def _held(row: Any) -> HeldCredentials:
    return HeldCredentials(identity_of(row.ca_signer, row.ca_trusted), row.is_outdated)


def _given(received: ReceivedHeartbeat) -> dict[str, Any]:
    report = received.heartbeat.report
    return {
        "id": str(received.host_id.value),
        "token_id": str(received.token_id),
        "inventory": received.heartbeat.inventory,
    } | ({} if report is None else reported_columns(report))
