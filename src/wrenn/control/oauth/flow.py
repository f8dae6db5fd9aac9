"""Signs users in through a provider, or links a provider to the account that is signed in.

An identity that is linked gets in. Another one gets a new account, unless its address has an account: that one is not
linked by itself, as an address may have changed hands; its user links it from within.
"""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from pydantic import TypeAdapter, ValidationError

from wrenn.base.errors import WrennError
from wrenn.base.ids import SessionId, TeamId, UserId, random_hex
from wrenn.control.auth import Account, AccountDeactivated, Authenticator, UserToken, hold_account
from wrenn.control.db import Database, Transaction
from wrenn.control.oauth.client import ProviderFailed
from wrenn.control.oauth.identity import Identity, Start
from wrenn.control.oauth.providers import Providers
from wrenn.control.oauth.settings import OAuthSettings
from wrenn.control.oauth.ticket import Ticket, Tickets
from wrenn.control.sessions import Sessions, SignedIn
from wrenn.control.users import (
    AccountSettings,
    Email,
    EmailTaken,
    Name,
    SignupClosed,
    add_account,
    is_of_this_server,
    user_store,
)

_log = logging.getLogger(__name__)

_EMAIL: Final[TypeAdapter[str]] = TypeAdapter(Email)
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
CODE_LIMIT: Final = 2048


class AlreadyLinked(WrennError):
    """The identity, or another one of this provider, is linked to an account."""

    code = "already_linked"
    http_status = 409


@dataclass(frozen=True, slots=True)
class AuthRedirect:
    """Where to send a browser so that its user signs in at a provider, and the cookie to set."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class CallbackResult:
    """Where a browser goes after the provider sent it back, and the new session if it was signed in."""

    url: str
    signed_in: SignedIn | None = None


class SignIn:
    """Signs users in through a provider, or links a provider to the account that the caller is signed in to."""

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        authenticator: Authenticator,
        providers: Providers,
        tickets: Tickets,
        settings: OAuthSettings,
        accounts: AccountSettings,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._authenticator = authenticator
        self._providers = providers
        self._tickets = tickets
        self._settings = settings
        self._signup_open = accounts.signup_open

    @property
    def names(self) -> list[str]:
        """The names of the providers that are configured."""
        return list(self._providers.names)

    @property
    def signup_open(self) -> bool:
        """Whether anybody may make an account."""
        return self._signup_open

    async def begin(self, provider: str, account: Account | None = None) -> AuthRedirect:
        """Start a sign-in, or with an account the linking of a provider to it, and return where the browser goes.

        Raises:
            ProviderNotFound, ProviderFailed.
        """
        found = self._providers.get(provider)
        ticket = Ticket(
            provider=provider,
            state=random_hex(16),
            nonce=random_hex(16),
            verifier=random_hex(32),
            expires=self._tickets.expires(),
            user_id="" if account is None else str(account.user_id),
            session_id="" if account is None else str(account.session_id),
        )
        return AuthRedirect(await found.authorize_url(self._start(ticket)), self._tickets.write(ticket))

    async def finish(
        self, provider: str, *, cookie: str | None, code: str | None, state: str | None, refusal: str | None
    ) -> CallbackResult:
        """Handle a browser that a provider sent back. Errors are codes in the URL that the browser goes on to; that URL never holds a secret.

        Raises:
            ProviderNotFound.
        """
        self._providers.get(provider)
        try:
            signed_in = await self._finish(provider, cookie, code, state, refusal)
        except _Refused as refused:
            return self._callback_result(provider, error=refused.code)
        except WrennError as error:
            if error.http_status >= 500:
                _log.warning(
                    "sign-in failed", extra={"provider": provider, "code": error.code, **error.context}
                )
            return self._callback_result(provider, error=_error_code(error))
        return CallbackResult(self._callback_result(provider, linked=signed_in is None).url, signed_in)

    async def _finish(
        self, provider: str, cookie: str | None, code: str | None, state: str | None, refusal: str | None
    ) -> SignedIn | None:
        ticket = self._tickets.read(cookie)
        fits = ticket is not None and hmac.compare_digest(
            ticket.state.encode(), (state or "").encode(errors="replace")
        )
        if refusal is not None and fits:
            raise _Refused("access_denied")
        if ticket is None or not fits or ticket.provider != provider:
            raise _Refused("invalid_state")
        if not code or len(code) > CODE_LIMIT:
            raise _Refused("missing_code")
        identity = _checked(await self._providers.get(provider).identify(self._start(ticket), code))
        if ticket.user_id:
            await self._link(provider, identity, ticket)
            return None
        return await self._database.transaction(lambda tx: self._enter(tx, provider, identity))

    async def _enter(self, tx: Transaction, provider: str, identity: Identity) -> SignedIn:
        user = await user_store.user_of_identity(tx, provider, identity.provider_id)
        if user is None:
            if not self._signup_open:
                raise SignupClosed("Sign-up is closed.")
            if is_of_this_server(identity.email):
                raise ProviderFailed("The sign-in provider's address is one at localhost.")
            try:
                user = await add_account(tx, email=identity.email, name=identity.name, password_hash=None)
            except EmailTaken:
                # Perhaps by the same identity in this moment, as a browser sends a request twice.
                user = await user_store.user_of_identity(tx, provider, identity.provider_id)
                if user is None:
                    raise
            else:
                await user_store.link(
                    tx,
                    user.user_id,
                    provider=provider,
                    provider_id=identity.provider_id,
                    email=identity.email,
                )
        locked = await user_store.lock(tx, user.user_id)
        if locked is None or locked.status != "active":
            raise AccountDeactivated("Your account was deactivated by an admin of the platform.")
        await _note_verified(tx, locked, identity)
        return await self._sessions.open(tx, locked)

    async def _link(self, provider: str, identity: Identity, ticket: Ticket) -> None:
        user_id = UserId.parse(ticket.user_id)
        # Whatever became of the account while its user was away.
        no_team = TeamId(user_id.value)
        account = await self._authenticator.account(
            UserToken(user_id, no_team, SessionId.parse(ticket.session_id))
        )

        async def link(tx: Transaction) -> None:
            await hold_account(tx, account)
            if not await user_store.link(
                tx, user_id, provider=provider, provider_id=identity.provider_id, email=identity.email
            ):
                raise AlreadyLinked("It is linked to an account already.")
            await _note_verified(tx, await user_store.load(tx, user_id), identity)

        await self._database.transaction(link)

    def _start(self, ticket: Ticket) -> Start:
        callback = f"{self._settings.public_url}/auth/oauth/{ticket.provider}/callback"
        return Start(ticket.state, ticket.nonce, ticket.verifier, callback)

    def _callback_result(
        self, provider: str, *, error: str | None = None, linked: bool = False
    ) -> CallbackResult:
        said = {"error": error} if error is not None else {"linked": "true"} if linked else {}
        query = f"?{urlencode(said)}" if said else ""
        return CallbackResult(f"{self._settings.redirect_url}/auth/{provider}/callback{query}")


class _Refused(Exception):
    """The browser came back without a valid ticket, state or code; not worth a log entry."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


async def _note_verified(tx: Transaction, user: user_store.User, identity: Identity) -> None:
    """Mark the account's e-mail address as verified if the provider says that this address is."""
    if identity.is_email_verified and identity.email == user.email and not user.is_email_verified:
        await user_store.set_email_verified(tx, user.user_id)


def _checked(identity: Identity) -> Identity:
    """Return the identity with an e-mail address and a name that an account may have."""
    try:
        email = _EMAIL.validate_python(identity.email)
    except ValidationError as error:
        raise ProviderFailed("The sign-in provider's address cannot be used.") from error
    try:
        name = _NAME.validate_python(identity.name.encode()[:100].decode(errors="ignore"))
    except ValidationError:
        name = email.partition("@")[0][:100]
    return Identity(identity.provider_id[:255], email, name, is_email_verified=identity.is_email_verified)


def _error_code(error: WrennError) -> str:
    if error.code == "database_unavailable":
        return "db_error"
    return error.code
