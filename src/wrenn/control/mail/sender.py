"""The loop that sends queued mails. All replicas run it; each mail is leased by one of them.

A mail is sent at least once: it stays in the queue until the server has taken it, so neither a crash nor a server that is down loses
one. If a replica dies between the server's word and the removal of the row, the mail is sent a second time, with the same id.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from wrenn.base.loops import Loop
from wrenn.control.db import Database
from wrenn.control.mail import store
from wrenn.control.mail.message import Mailbox, compose
from wrenn.control.mail.smtp import MailFailed, SmtpServer
from wrenn.control.mail.store import CHANNEL, TakenMail

__all__ = ["CHANNEL", "MailSender"]

_log = logging.getLogger(__name__)

_EVERY_S: Final = 5.0
"""How often the queue is looked at; a notification comes before that."""
_AT_ONCE: Final = 4
"""Mails that one replica sends at once: few servers let one client open many connections."""
_SEND_TIMEOUT_S: Final = 45.0
"""For one mail, from the connection to the server's last word."""
_LEASE_S: Final = 120.0
"""Above that time by far, so that nobody takes a mail that is being sent."""
_SHUTDOWN_S: Final = 5.0
"""How long mails that are being sent when the program ends may take: cut off, they would be sent again."""
_FIRST_PAUSE_S: Final = 10.0
_LONGEST_PAUSE_S: Final = 900.0


class MailSender:
    """Sends queued mails."""

    def __init__(self, database: Database, server: SmtpServer, sender: Mailbox) -> None:
        self._database = database
        self._server = server
        self._sender = sender
        self.loop = Loop("send mails")

    def wake(self, _payload: str = "") -> None:
        """Look for due mails now."""
        self.loop.wake()

    async def run(self) -> None:
        """Check the mail server once, then send due mails until cancelled."""
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await self._server.check()
        except (MailFailed, TimeoutError) as error:
            _log.warning(
                "the mail server cannot be used now", extra={"cause": str(error) or "no answer in time"}
            )
        await self.loop.run(self._send_all_due, every_s=_EVERY_S)

    async def _send_all_due(self) -> None:
        while await self.send_due():
            pass

    async def send_due(self) -> bool:
        """Send a batch of due mails; whether to continue at once."""
        mails = await store.take_due(self._database, most=_AT_ONCE, lease_s=_LEASE_S)
        sending = [asyncio.create_task(self._send(mail)) for mail in mails]
        if not sending:
            return False
        try:
            await asyncio.wait(sending)
        except asyncio.CancelledError:
            await asyncio.wait(sending, timeout=_SHUTDOWN_S)
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            raise
        results = [task.result() for task in sending]
        return all(results)

    async def _send(self, mail: TakenMail) -> bool:
        """Send one mail; False: the server accepts no mail now."""
        facts = {"mail_id": str(mail.mail_id), "mail_kind": mail.kind, "attempt": mail.attempts}
        message = compose(
            mail_id=str(mail.mail_id),
            sender=self._sender,
            recipient=mail.recipient,
            subject=mail.subject,
            text=mail.text,
        )
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await self._server.send(message, mail.recipient)
        except (MailFailed, TimeoutError) as error:
            failure = (
                error
                if isinstance(error, MailFailed)
                else MailFailed("no answer in time", is_unreachable=True)
            )
            _log.warning(
                "a mail was not sent", extra={**facts, "cause": str(failure), "given_up": failure.is_final}
            )
            if failure.is_final:
                await store.remove(self._database, mail)
            else:
                await store.try_again(self._database, mail, in_seconds=_pause_s(mail.attempts))
            return not failure.is_unreachable
        await store.remove(self._database, mail)
        _log.info("mail sent", extra=facts)
        return True


def _pause_s(attempts: int) -> float:
    # The exponent is bounded, as attempts are not.
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempts - 1, 10))
