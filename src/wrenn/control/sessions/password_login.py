"""Sign-up and login with e-mail and password. Neither the text nor the duration of a refused login reveals whether an account exists."""

from __future__ import annotations

from wrenn.base.errors import InvalidRequest, Unauthorized
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails
from wrenn.control.db import Database, Transaction
from wrenn.control.sessions.service import Sessions, SignedIn
from wrenn.control.sessions.types import LogIn, SignUp
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import (
    AccountDisabled,
    Passwords,
    SignupClosed,
    add_account,
    is_of_this_server,
    user_store,
)

WRONG = "The e-mail address or the password is wrong."


class PasswordLogin:
    """Signs users up and logs them in with an e-mail address and a password.

    A sign-up reveals that an address is taken, so attempts are limited like those of a login.
    """

    def __init__(
        self,
        *,
        database: Database,
        passwords: Passwords,
        sessions: Sessions,
        throttle: Throttle,
        mails: AccountMails,
        signup_open: bool,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._sessions = sessions
        self._throttle = throttle
        self._mails = mails
        self._signup_open = signup_open

    async def sign_up(self, body: SignUp, address: str) -> SignedIn:
        """Create an account with a team of its own, and a session. Of concurrent sign-ups with one address one succeeds.

        If mail is configured, a mail asks the owner of the address to verify it, unless too many mails were requested without a login.

        Raises:
            SignupClosed, EmailTaken. InvalidRequest: an address at localhost. RateLimited: too many attempts from this address.
        """
        if not self._signup_open:
            raise SignupClosed("Sign-up is closed: ask an admin of the platform for an account.")
        if is_of_this_server(body.email):
            raise InvalidRequest("email: only the operator makes accounts with addresses at localhost.")
        source = Subject.address(address)
        async with self._passwords.turn():
            await self._throttle.count_attempt(source)
            password_hash = await self._passwords.hash(Secret(body.password))

            async def insert(tx: Transaction) -> SignedIn:
                user = await add_account(tx, email=body.email, name=body.name, password_hash=password_hash)
                limits = Subject.mail_client(address), Subject.mail_request(body.email)
                # Of an address that is deleted and signs up again, and of a list of addresses, not all get a mail.
                if self._mails.is_configured and await self._throttle.count_if_allowed(tx, *limits):
                    await self._mails.verify(tx, user)
                await self._throttle.succeeded(tx, Subject.account(body.email), source)
                return await self._sessions.open(tx, user)

            return await self._database.transaction(insert)

    async def log_in(self, body: LogIn, address: str) -> SignedIn:
        """Check the password and open a session.

        Raises:
            Unauthorized: unknown address, no password, wrong password. RateLimited: too many attempts.
            AccountDisabled, NoTeam: only if the password is right.
        """
        account, source = Subject.account(body.email), Subject.address(address)
        async with self._passwords.turn():
            await self._throttle.count_attempt(account, source)
            password = Secret(body.password)
            user = await user_store.find_by_email(self._database, body.email)
            stored = user.password_hash if user is not None else None
            is_right = await self._passwords.verify(password, stored)
            if not is_right or user is None or stored is None or user.status == "deleted":
                raise Unauthorized(WRONG)
            renewed = await self._passwords.hash(password) if self._passwords.is_outdated(stored) else None

            async def enter(tx: Transaction) -> SignedIn:
                now = await user_store.lock(tx, user.user_id)
                if now is None or now.password_hash != stored:
                    raise Unauthorized(WRONG)  # changed since it was read
                if now.status != "active":
                    raise AccountDisabled("Your account was deactivated by an admin of the platform.")
                if renewed is not None:
                    await user_store.set_password(tx, now.user_id, renewed)
                await self._throttle.succeeded(tx, account, source)
                return await self._sessions.open(tx, now)

            return await self._database.transaction(enter)
