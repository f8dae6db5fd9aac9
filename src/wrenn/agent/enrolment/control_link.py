"""Keeps the control plane informed that this host lives, and the host's credentials fresh."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

from wrenn.agent.control_loss import ControlLoss
from wrenn.agent.enrolment.control_client import ControlClient, HostDeleted
from wrenn.agent.enrolment.credentials import Credentials, CredentialsFile
from wrenn.agent.enrolment.register import refresh
from wrenn.agent.enrolment.server_tls import ServerTls
from wrenn.agent.inventory import Heartbeat, Inventory
from wrenn.agent.settings import Settings
from wrenn.base.clock import Clock
from wrenn.base.errors import Forbidden, Unauthorized, WrennError
from wrenn.base.loops import Loop

_log = logging.getLogger(__name__)

_AFTER_REFUSAL_S: Final = 900.0
_FIRST_RETRY_S: Final = 0.5
"""Until the first heartbeat is accepted it is repeated after so long, then after twice as long, and so on, up to `_LONGEST_RETRY_S`."""
_LONGEST_RETRY_S: Final = 4.0
"""Creates wait 20 s for a host that has another address than before."""
_AFTER_RENEWAL_S: Final = 60.0
"""How long a request of the control plane to renew is not followed again, for instance by replicas that do not trust the same CAs."""
_CHANGE_POLL_S: Final = 1.0
"""How often it is checked whether the inventory has changed, which is reported at once: at most one heartbeat in that time."""


async def heartbeat_once(credentials: Credentials, settings: Settings) -> None:
    """Send one heartbeat, which shows the control plane that the host is online. Raises as `ControlClient.heartbeat`."""
    async with ControlClient(credentials.control_url, settings.control_ca) as client:
        await client.heartbeat(credentials.host_id, credentials.token, {})


class ControlLink:
    """Sends heartbeats, and renews token and certificate before they expire.

    No failure ends it, and none costs a sandbox, except that the host was deleted.

    `loss` is told whether each heartbeat was accepted.

    Attributes:
        deleted: set when the control plane says that this host was deleted.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        tls: ServerTls,
        *,
        inventory: Inventory,
        clock: Clock,
        loss: ControlLoss,
    ) -> None:
        self._settings = settings
        self._inventory = inventory
        self._sent_digest = ""
        # Whether the last heartbeat was accepted, and whether any was since this agent started.
        self._is_accepted = self._was_ever_accepted = False
        self._first_retry_s = _FIRST_RETRY_S
        self._tried_renewal_at = -math.inf
        self._file = CredentialsFile(settings.data_dir)
        self._credentials = credentials
        self._tls = tls
        self._clock = clock
        self._loss = loss
        self._refused_at_unix = 0.0
        self.loop = Loop("heartbeat")
        self.deleted = asyncio.Event()

    @property
    def credentials(self) -> Credentials:
        """The present credentials; they change when they are renewed."""
        return self._credentials

    async def run(self) -> None:
        """Send a heartbeat at once and then at an interval, until cancelled or the host is deleted.

        When the inventory changes, the next one is sent within a second or two.
        """
        beats = asyncio.create_task(self.loop.run(self._beat_and_note, every_s=self._settings.heartbeat_s))
        poll_s = min(_CHANGE_POLL_S, self._settings.heartbeat_s)
        watch = asyncio.create_task(Loop("watch inventory").run(self._send_changes, every_s=poll_s))
        try:
            await self.deleted.wait()
        finally:
            beats.cancel()
            watch.cancel()

    async def _send_changes(self) -> None:
        # After a failure the next one is sent at the usual time, so that hosts do not overrun a control plane that is in
        # trouble.
        if self._is_accepted and self._inventory.digest() != self._sent_digest:
            self.loop.wake()

    async def _beat_and_note(self) -> None:
        self._is_accepted = False
        try:
            await self.beat_once()
        except Exception:
            # What follows an accepted heartbeat may fail, and there is contact all the same.
            if not self._is_accepted:
                self._loss.no_contact()
            if not self._was_ever_accepted:
                # Both may be starting, and the control plane may not know this agent's address yet.
                asyncio.get_running_loop().call_later(self._first_retry_s, self.loop.wake)
                self._first_retry_s = min(
                    2 * self._first_retry_s, _LONGEST_RETRY_S, self._settings.heartbeat_s
                )
            raise

    async def beat_once(self) -> None:
        """Renew the credentials if that is due, and send a heartbeat.

        Raises:
            WrennError: the heartbeat was not accepted.
        """
        self._take_changed_credentials()
        url = self._settings.control_url or self._credentials.control_url
        async with ControlClient(url, self._settings.control_ca) as client:
            if self._is_renewal_due():
                await self._try_renewal(client)
            try:
                try:
                    is_asked_to_renew = await self._beat(client)
                except (Unauthorized, Forbidden):
                    if self._was_refused_lately():
                        raise
                    await self._renew(client)
                    is_asked_to_renew = await self._beat(client)
                if is_asked_to_renew and self._may_renew_again() and await self._try_renewal(client):
                    # It shows that what was issued has arrived.
                    await self._beat(client)
            except HostDeleted:
                _log.warning("this host was deleted", extra={"host_id": self._credentials.host_id})
                self.deleted.set()

    async def _try_renewal(self, client: ControlClient) -> bool:
        """Renew the credentials; those that it has may still be valid if that fails, which is logged. Returns whether it did."""
        self._tried_renewal_at = self._clock.monotonic()
        try:
            await self._renew(client)
        except HostDeleted:
            raise
        except WrennError as error:
            _log.warning("credentials not renewed yet", extra={"cause": error.message})
            return False
        return True

    def _may_renew_again(self) -> bool:
        waited_s = self._clock.monotonic() - self._tried_renewal_at
        return not self._was_refused_lately() and waited_s >= min(
            _AFTER_RENEWAL_S, 2 * self._settings.heartbeat_s
        )

    def _take_changed_credentials(self) -> None:
        """Use the credentials of a registration that was repeated while this agent runs."""
        changed = self._file.load_changed()
        if changed is not None:
            self._use(changed)

    def _is_renewal_due(self) -> bool:
        moved = self._credentials.address != self._settings.advertised_address
        is_due = moved or self._credentials.is_renewal_due(self._clock.now().timestamp())
        return is_due and not self._was_refused_lately()

    def _was_refused_lately(self) -> bool:
        """Whether the refresh token was refused, and it is too early to try again: wrong tokens are counted against the address."""
        return abs(self._clock.now().timestamp() - self._refused_at_unix) < _AFTER_REFUSAL_S

    async def _beat(self, client: ControlClient) -> bool:
        heartbeat = self._described()
        self._sent_digest = "" if heartbeat is None else heartbeat.inventory
        is_renewal_asked = await client.heartbeat(
            self._credentials.host_id, self._credentials.token, {} if heartbeat is None else heartbeat.body()
        )
        self._is_accepted = self._was_ever_accepted = True
        self._loss.contact()
        if heartbeat is not None:
            self._inventory.delivered(heartbeat)
        return is_renewal_asked

    def _described(self) -> Heartbeat | None:
        """What this host has; None: that cannot be found out now. The host lives all the same, and is then asked for its lists."""
        try:
            return self._inventory.heartbeat()
        except (OSError, ValueError):
            # A disk that fails, a name that no text can hold.
            _log.exception("heartbeat without content")
            return None

    async def _renew(self, client: ControlClient) -> None:
        try:
            renewed = await refresh(
                client, self._credentials, self._file, address=self._settings.advertised_address
            )
        except Unauthorized:
            self._refused_at_unix = self._clock.now().timestamp()
            _log.error(
                "the control plane does not accept this host's credentials any more: register it again with"
                " `wrenn agent join` and a new token; its sandboxes run on",
                extra={"host_id": self._credentials.host_id},
            )
            raise
        self._use(renewed)
        _log.info("credentials renewed", extra={"expires_at_unix": renewed.expires_at_unix})

    def _use(self, credentials: Credentials) -> None:
        self._tls.use(credentials)
        self._credentials = credentials
        self._refused_at_unix = 0.0
