"""Registration of hosts by one-time tokens, refresh of their credentials with rotation, heartbeats."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from wrenn.base.clock import Clock
from wrenn.base.errors import (
    AgentFailure,
    Conflict,
    Forbidden,
    InvalidRequest,
    RateLimited,
    Unauthorized,
    WrennError,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.audit import SYSTEM, Status, record
from wrenn.control.auth import HostToken, Tokens
from wrenn.control.db import Database, Transaction
from wrenn.control.enrolment.types import RefreshHost, RegisterHost
from wrenn.control.hosts import (
    Authority,
    Heartbeats,
    HostAddress,
    HostDeleted,
    HostHeartbeat,
    HostRecord,
    HostType,
    Machine,
    ReceivedHeartbeat,
    RefreshToken,
    address_of,
    credential_store,
    heartbeat_of,
    host_action,
    public_key_of,
    record_store,
)
from wrenn.control.http.buckets import Buckets, Rate
from wrenn.control.throttle import Subject, Throttle

_WRONG_REGISTRATION = (
    "The registration token is not valid, was used or has expired: "
    "have another one issued for the host (`wrenn hosts token HOST`)."
)
_WRONG_REFRESH = (
    "The refresh token is not valid, was revoked or has expired: register again with a registration token."
)


_BEATS: Final = Rate(per_s=5, burst=30)
"""Heartbeats of one host: every 30 s, and one a second while something changes there."""
_BYTES_OF_A_BEAT: Final = 32 * 1024
"""So many bytes of its body count as another heartbeat."""
_DECODED_AT_ONCE_B: Final = 4 * 1024
_REFRESHES: Final = Rate(per_s=1 / 60, burst=20)
"""Of one host, each of which may write to the audit log: one every two days, and more after failures."""
_BUCKETS: Final = 20_000
_log = logging.getLogger(__name__)

RecordActivity = Callable[[HostId, Mapping[SandboxId, float]], Awaitable[None]]
"""Store when sandboxes on this host were used last (Unix time, seconds)."""
CountStarted = Callable[[Transaction, HostId], Awaitable[int]]
"""Count the sandboxes whose files or memory a host should have."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A host and what its agent identifies itself with from now on.

    Attributes:
        trusted_pem: the certificates of all CAs that the agent may trust.
    """

    host: HostRecord
    token: Secret
    refresh_token: Secret
    cert_pem: str
    trusted_pem: str


class Enrolment:
    """Gives agents their credentials and takes their heartbeats."""

    def __init__(
        self,
        *,
        database: Database,
        heartbeats: Heartbeats,
        authority: Callable[[], Authority],
        tokens: Tokens,
        throttle: Throttle,
        record_activity: RecordActivity,
        count_started: CountStarted,
        clock: Clock,
    ) -> None:
        self._database = database
        self._heartbeats = heartbeats
        self._authority = authority
        self._tokens = tokens
        self._throttle = throttle
        self._record_activity = record_activity
        self._count_started = count_started
        self._beats = Buckets(_BEATS, clock, most=_BUCKETS)
        # Tokens that were found revoked, whose heartbeats are not read any more.
        self._refused: OrderedDict[uuid.UUID, Unauthorized | HostDeleted] = OrderedDict()
        self._refreshes = Buckets(_REFRESHES, clock, most=_BUCKETS)

    async def register(self, body: RegisterHost, client: str) -> Credentials:
        """Use up a registration token and return the credentials of its host. What had registered it before loses its own when these are used.

        Raises:
            InvalidRequest: of address or request. Unauthorized: of the token. RateLimited: the token is wrong, and there
                were too many wrong ones from this client. Conflict: the machine has the files of another host, or none although the
                host has sandboxes. Nothing changed.
        """
        address = HostAddress.parse(body.address)
        public_key_of(body.csr_pem)
        machine = Machine(body.arch, body.cpu_cores, body.memory_mb, body.disk_gb)
        authority = self._authority()
        former_id = None if body.former_host_id is None else HostId.parse(body.former_host_id)

        async def register(tx: Transaction) -> Credentials | None:
            host_id = await credential_store.host_of_registration_token(tx, body.token)
            # The lock of the host comes before that of its tokens, everywhere.
            host = None if host_id is None else await record_store.lock(tx, host_id)
            if host is None:
                return None
            _check_address(host, address)
            await self._check_files(tx, host, former_id)
            if not await credential_store.consume_registration_token(tx, body.token):
                return None
            certificate = authority.sign_agent(
                body.csr_pem, host.host_id, address.host, cert_epoch=host.cert_epoch
            )
            refresh = await credential_store.record_registration(
                tx, host.host_id, address.url, machine, certificate, cas=authority.identity
            )
            action = host_action("register", facts={"address": str(address)})
            await record(tx, host.log_team, SYSTEM, action, str(host.host_id))
            await fault_point("control.register.before_commit")
            return await self._credentials(tx, host, refresh, certificate.pem, authority.trusted_pem)

        credentials = await self._database.transaction(register)
        if credentials is None:
            raise await self._wrong_token(client, _WRONG_REGISTRATION)
        await fault_point("control.register.after_commit")
        return credentials

    async def refresh(self, body: RefreshHost, client: str) -> Credentials:
        """Return new credentials of a host. Those that it has stay valid until the new ones are used.

        Raises:
            InvalidRequest: of address or request. Unauthorized: of the token; nothing changed. HostDeleted.
            RateLimited: this host refreshes too often; or the token is wrong, and there were too many wrong ones from this client.
        """
        address = None if body.address is None else HostAddress.parse(body.address)
        public_key_of(body.csr_pem)
        authority = self._authority()

        async def refresh(tx: Transaction) -> Credentials | None:
            host_id = await credential_store.host_of_refresh_token(tx, body.refresh_token)
            if host_id is None:
                return None
            host = await record_store.lock(tx, host_id)
            if host is None:
                raise HostDeleted(f"Host {host_id} was deleted.")
            rotated = await credential_store.rotate_refresh_token(
                tx, host_id, body.refresh_token, authority.identity
            )
            if rotated is None:
                return None
            wait_s = self._refreshes.take(host_id.value.bytes)
            if wait_s:
                raise RateLimited(
                    "This host refreshes its credentials too often.", retry_after_s=math.ceil(wait_s)
                )
            where = HostAddress.parse(address_of(host.address)) if address is None else address
            _check_address(host, where)
            url = where.url
            certificate = authority.sign_agent(body.csr_pem, host_id, where.host, cert_epoch=host.cert_epoch)
            await credential_store.record_certificate(tx, host_id, certificate, url=url)
            if url != host.address:
                facts = {"address": address_of(url), "previous_address": address_of(host.address)}
                action = host_action("update_address", Status.INFO, facts=facts)
                await record(tx, host.log_team, SYSTEM, action, str(host_id))
            await fault_point("control.refresh.before_commit")
            return await self._credentials(tx, host, rotated, certificate.pem, authority.trusted_pem)

        credentials = await self._database.transaction(refresh)
        if credentials is None:
            raise await self._wrong_token(client, _WRONG_REFRESH)
        await fault_point("control.refresh.after_commit")
        return credentials

    def sender_of(self, host_token: str | None, text_id: str) -> HostToken:
        """Return what a host token says, of a host that sends a heartbeat; to be called before the heartbeat is read.

        Raises:
            Unauthorized: no valid host token. Forbidden: it is another host's. RateLimited: this host sends too many.
            HostDeleted: and this replica knows it already.
        """
        token = self._tokens.read_host(host_token or "")
        if str(token.host_id) != text_id:
            raise Forbidden("This token belongs to another host.")
        if (refused := self._refused.get(token.refresh_id)) is not None:
            raise type(refused)(refused.message)
        self._take(token, 1)
        return token

    def _take(self, sender: HostToken, beats: float) -> None:
        # By token: one that was revoked must not use up what the host may do with its present one.
        wait_s = self._beats.take(sender.refresh_id.bytes, beats)
        if wait_s:
            raise RateLimited("This host sends too many heartbeats.", retry_after_s=math.ceil(wait_s))

    async def heartbeat(self, sender: HostToken, body: bytes) -> bool:
        """Store that the agent of this host is alive, and what it says of the host, if that can be read.

        Returns whether it must refresh its credentials: the CA was changed, or its certificate counts as withdrawn.

        Raises:
            HostDeleted, NotFound. Unauthorized: the token was revoked. InvalidRequest: the body is neither empty nor a JSON object.
            RateLimited: this host sends too much.
        """
        host_id = sender.host_id
        self._take(sender, len(body) / _BYTES_OF_A_BEAT)
        try:
            # Decoding takes up to 0.3 µs a byte, and others wait for the event loop meanwhile.
            if len(body) <= _DECODED_AT_ONCE_B:
                heartbeat = _decoded(body)
            else:
                heartbeat = await asyncio.to_thread(_decoded, body)
        except AgentFailure as error:
            # The host lives. It is asked for its lists as one that says nothing of itself.
            _log.warning("heartbeat not read", extra={"host_id": str(host_id), "cause": error.message})
            heartbeat = HostHeartbeat()
        try:
            held = await self._heartbeats.record(ReceivedHeartbeat(host_id, sender.refresh_id, heartbeat))
        except (Unauthorized, HostDeleted) as error:
            # For ever: neither is taken back.
            self._refused[sender.refresh_id] = error
            if len(self._refused) > _BUCKETS:
                self._refused.popitem(last=False)
            raise
        if heartbeat.active:
            try:
                await self._record_activity(host_id, heartbeat.active)
            except WrennError as error:
                _log.warning("activity not stored", extra={"host_id": str(host_id), "cause": error.message})
        return held.is_outdated or held.cas != self._authority().identity

    async def _wrong_token(self, client: str, message: str) -> Unauthorized:
        """Count a wrong token and return the refusal of it.

        Counted after the look-up, so that wrong tokens from an address (of a NAT, a proxy) never hold up a valid one: its
        256 bits are what guesses fail at.

        Raises:
            RateLimited: there were too many wrong ones from this client.
        """
        await self._throttle.count_attempt(Subject.enrolment(client))
        return Unauthorized(message)

    async def _check_files(self, tx: Transaction, host: HostRecord, former_id: HostId | None) -> None:
        """Return if a machine with the files of the host `former_id`, or with none, may register as this locked host.

        Raises:
            Conflict: it has the files of another host that was not deleted, or none of the sandboxes of this host. They would be
                recorded as lost, while the machine that has them may only be switched off.
        """
        if former_id == host.host_id:
            return
        if former_id is not None and await record_store.exists(tx, former_id):
            raise Conflict(
                f"The token is for host {host.host_id}, but this machine has the files of host {former_id}: "
                f"register it with a token for that host (`wrenn hosts token {former_id}`)."
            )
        if count := await self._count_started(tx, host.host_id):
            raise Conflict(
                f"Host {host.host_id} has {count} sandboxes, and this machine has none of their files: is it the machine, and "
                "its --data-dir, of that host? If the files are lost, recover what is stored (`wrenn recover`), delete "
                f"the host (`wrenn hosts delete {host.host_id} --force`), and create another for this machine."
            )

    async def _credentials(
        self, tx: Transaction, former: HostRecord, refresh: RefreshToken, cert_pem: str, trusted_pem: str
    ) -> Credentials:
        host = await record_store.lock(tx, former.host_id)
        assert host is not None, "locked by this transaction"
        token = Secret(self._tokens.issue_host(host.host_id, refresh.token_id))
        return Credentials(host, token, refresh.secret, cert_pem, trusted_pem)


def _decoded(body: bytes) -> HostHeartbeat:
    """Decode the body of a heartbeat.

    Raises:
        InvalidRequest: it is neither empty nor a JSON object. AgentFailure: what it says cannot be read.
    """
    if not body:
        return HostHeartbeat()
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be empty or a JSON object.")
    return heartbeat_of(cast("dict[str, Any]", found))


def _check_address(host: HostRecord, address: HostAddress) -> None:
    """Return if the control plane may call this host at this address: it must not be led to itself by a team's host.

    Raises:
        InvalidRequest.
    """
    if host.type is HostType.BYOC:
        address.check_remote()
