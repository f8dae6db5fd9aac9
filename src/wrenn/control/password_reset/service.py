"""Password reset and e-mail verification, by a token that is mailed to the owner of an address; no login is needed.

A request for a mail only writes a row, and a loop then checks whether the address has an account. So neither the response nor its
duration reveals whether there is one, and no request waits for a mail server.
"""

from __future__ import annotations

import logging
from typing import Final

from wrenn.base.loops import Loop
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails, Purpose, find_token, token_store
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.sessions import session_store
from wrenn.control.teams import end_former_access
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import MailNotConfigured, Passwords, user_store

_log = logging.getLogger(__name__)

_EVERY_S: Final = 2.0
"""How often the loop checks for requests that another replica wrote and did not process."""
_BATCH: Final = 20


class PasswordReset:
    """Verifies e-mail addresses and resets passwords with tokens that were sent by mail."""

    def __init__(
        self, *, database: Database, passwords: Passwords, throttle: Throttle, mails: AccountMails
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._throttle = throttle
        self._mails = mails
        self.loop = Loop("write requested mails")

    async def request(self, purpose: Purpose, email: str, address: str) -> None:
        """Request a mail to this address, which is sent if the address belongs to an account that needs one.

        Raises:
            MailNotConfigured. RateLimited: too many for this e-mail address, or from this client's.
        """
        if not self._mails.is_configured:
            raise MailNotConfigured("This platform sends no mail: ask an admin of the platform.")
        await self._throttle.count_attempt(Subject.mail_client(address), Subject.mail_request(email))
        await token_store.request(self._database, purpose, email)
        self.loop.wake()

    async def verify_email(self, token: str, address: str) -> None:
        """Verify the e-mail address that this token was sent to.

        Raises:
            NotFound: not a valid token. RateLimited: too many attempts from this client.
        """
        source = Subject.address(address)
        await self._throttle.count_attempt(source)
        shown = await find_token(self._database, Purpose.VERIFY, token)

        async def verify(tx: Transaction) -> None:
            user = await shown.use(tx)
            await user_store.set_email_verified(tx, user.user_id)
            await audit_actions.record_for_platform(
                tx,
                audit_actions.user_actor(user.user_id, user.name),
                audit_actions.EMAIL_VERIFIED,
                user.user_id,
            )
            await self._throttle.uncount(tx, source)

        await self._database.transaction(verify)

    async def reset_password(self, token: str, new_password: Secret, address: str) -> None:
        """Set another password for the account that this token was sent to. Its sessions end; no new one begins.

        If the address was not verified before, somebody else may have created the account. Then the API keys that it created and its
        links to sign-in providers are removed too.

        Raises:
            NotFound: not a valid token. RateLimited: too many attempts from this client, or too many hashes at once.
        """
        source = Subject.address(address)
        async with self._passwords.turn():
            await self._throttle.count_attempt(source)
            # A password hash is expensive, so the token is checked first.
            shown = await find_token(self._database, Purpose.RESET, token)
            password_hash = await self._passwords.hash(new_password)

            async def reset(tx: Transaction) -> None:
                user = await shown.use(tx)
                actor = audit_actions.user_actor(user.user_id, user.name)
                await user_store.set_password(tx, user.user_id, password_hash)
                await session_store.end_all(tx, user.user_id)
                if not user.is_email_verified:
                    await end_former_access(tx, user.user_id, actor)
                    await user_store.set_email_verified(tx, user.user_id)
                await self._mails.void(tx, user.user_id, Purpose.VERIFY, Purpose.SIGN_IN)
                await audit_actions.record_for_platform(tx, actor, audit_actions.PASSWORD_RESET, user.user_id)
                await self._throttle.succeeded(tx, Subject.account(user.email), source)

            await self._database.transaction(reset)

    async def run(self) -> None:
        """Write the requested mails, until cancelled. Any number of replicas may do it."""
        await self.loop.run(self._write_all_requested, every_s=_EVERY_S)

    async def _write_all_requested(self) -> None:
        while await self.write_requested():
            pass

    async def write_requested(self) -> bool:
        """Write the mails of a batch of requests; return whether there may be more."""

        async def write(tx: Transaction) -> bool:
            asked = await token_store.take_requests(tx, most=_BATCH)
            # In one order, as each locks a user.
            for purpose, email in sorted(asked, key=lambda request: request[1]):
                user = await user_store.lock_by_email(tx, email)
                if user is None or user.status != "active":
                    continue
                if purpose is Purpose.VERIFY:
                    await self._mails.verify(tx, user)
                elif await self._mails.reset_password(tx, user):
                    await audit_actions.record_for_platform(
                        tx, SYSTEM, audit_actions.RESET_MAILED, user.user_id
                    )
            return len(asked) == _BATCH

        return await self._database.transaction(write)
