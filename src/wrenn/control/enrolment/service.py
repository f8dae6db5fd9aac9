"""Registration of hosts by one-time tokens, refresh of their credentials with rotation, heartbeats."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.errors import Forbidden, Unauthorized
from wrenn.base.faults import fault_point
from wrenn.base.secrets import Secret
from wrenn.control.audit import SYSTEM, Status, record
from wrenn.control.auth import Tokens
from wrenn.control.db import Database, Transaction
from wrenn.control.enrolment.types import RefreshHost, RegisterHost
from wrenn.control.hosts import (
    Authority,
    HostAddress,
    HostDeleted,
    HostRecord,
    Machine,
    RefreshToken,
    address_of,
    credential_store,
    host_action,
    public_key_of,
    record_store,
)
from wrenn.control.throttle import Subject, Throttle

_WRONG_REGISTRATION = (
    "The registration token is not valid, was used or has expired: have another one issued for the host."
)
_WRONG_REFRESH = (
    "The refresh token is not valid, was revoked or has expired: register again with a registration token."
)


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
        self, *, database: Database, authority: Authority, tokens: Tokens, throttle: Throttle
    ) -> None:
        self._database = database
        self._authority = authority
        self._tokens = tokens
        self._throttle = throttle

    async def register(self, body: RegisterHost, client: str) -> Credentials:
        """Use up a registration token and return the credentials of its host. What had registered it before loses its own.

        Raises:
            InvalidRequest: of address or request. Unauthorized: of the token; nothing changed. RateLimited: too many
                wrong tokens from this client.
        """
        address = HostAddress.parse(body.address)
        public_key_of(body.csr_pem)
        machine = Machine(body.arch, body.cpu_cores, body.memory_mb, body.disk_gb)
        source = Subject.enrolment(client)
        await self._throttle.count_attempt(source)

        async def register(tx: Transaction) -> Credentials:
            host_id = await credential_store.host_of_registration_token(tx, body.token)
            # The lock of the host comes before that of its tokens, everywhere.
            host = None if host_id is None else await record_store.lock(tx, host_id)
            if host is None or not await credential_store.consume_registration_token(tx, body.token):
                raise Unauthorized(_WRONG_REGISTRATION)
            certificate = self._authority.sign_agent(body.csr_pem, host.host_id, address.host)
            refresh = await credential_store.record_registration(
                tx, host.host_id, address.url, machine, certificate
            )
            action = host_action("register", facts={"address": str(address)})
            await record(tx, host.log_team, SYSTEM, action, str(host.host_id))
            await self._throttle.uncount(tx, source)
            await fault_point("control.register.before_commit")
            return await self._credentials(tx, host, refresh, certificate.pem)

        credentials = await self._database.transaction(register)
        await fault_point("control.register.after_commit")
        return credentials

    async def refresh(self, body: RefreshHost, client: str) -> Credentials:
        """Return new credentials of a host. Those that it has stay valid until the new ones are used.

        Raises:
            InvalidRequest: of address or request. Unauthorized: of the token; nothing changed. HostDeleted.
            RateLimited: too many wrong tokens from this client.
        """
        address = None if body.address is None else HostAddress.parse(body.address)
        public_key_of(body.csr_pem)
        source = Subject.enrolment(client)
        await self._throttle.count_attempt(source)

        async def refresh(tx: Transaction) -> Credentials:
            host_id = await credential_store.host_of_refresh_token(tx, body.refresh_token)
            if host_id is None:
                raise Unauthorized(_WRONG_REFRESH)
            host = await record_store.lock(tx, host_id)
            if host is None:
                raise HostDeleted(f"Host {host_id} was deleted.")
            rotated = await credential_store.rotate_refresh_token(tx, host_id, body.refresh_token)
            if rotated is None:
                raise Unauthorized(_WRONG_REFRESH)
            url = host.address if address is None else address.url
            certificate = self._authority.sign_agent(
                body.csr_pem, host_id, HostAddress.parse(address_of(url)).host
            )
            await credential_store.record_certificate(tx, host_id, certificate, url=url)
            if url != host.address:
                facts = {"address": address_of(url), "previous_address": address_of(host.address)}
                action = host_action("update_address", Status.INFO, facts=facts)
                await record(tx, host.log_team, SYSTEM, action, str(host_id))
            await self._throttle.uncount(tx, source)
            await fault_point("control.refresh.before_commit")
            return await self._credentials(tx, host, rotated, certificate.pem)

        credentials = await self._database.transaction(refresh)
        await fault_point("control.refresh.after_commit")
        return credentials

    async def heartbeat(self, host_token: str | None, text_id: str) -> None:
        """Store that the agent of this host is alive.

        Raises:
            Unauthorized: no valid host token. Forbidden: it is another host's. HostDeleted, NotFound.
        """
        token = self._tokens.read_host(host_token or "")
        if str(token.host_id) != text_id:
            raise Forbidden("The host token is another host's.")
        await credential_store.record_heartbeat(self._database, token.host_id, token.refresh_id)

    async def _credentials(
        self, tx: Transaction, former: HostRecord, refresh: RefreshToken, cert_pem: str
    ) -> Credentials:
        host = await record_store.lock(tx, former.host_id)
        assert host is not None, "locked by this transaction"
        token = Secret(self._tokens.issue_host(host.host_id, refresh.token_id))
        return Credentials(host, token, refresh.secret, cert_pem, self._authority.trusted_pem)
