"""What the operator does to accounts on the server, past the API: `wrenn admin create`, `wrenn admin set-password`, `wrenn open`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from wrenn.base.errors import Forbidden, InvalidRequest, NotFound
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails, Purpose, put_token
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.identity.bootstrap import FIRST_EMAIL
from wrenn.control.sessions import SignUp, session_store
from wrenn.control.teams import EndedAccess, end_former_access
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import Passwords, User, add_account, user_store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AdminCreated:
    """Whether the account is new, and what an existing one lost."""

    is_new: bool
    ended: EndedAccess


async def create_admin(
    database_url: str, *, email: str, name: str, password: Secret, revoke_keys: bool | None = None
) -> AdminCreated:
    """Create an admin of the platform. An existing account gets the password, is activated, and its sessions end.

    `revoke_keys` as in `set_password`.

    Raises:
        InvalidRequest: no e-mail address, name or password can be so.
    """
    body = _checked(email, name, password)

    async def make(tx: Transaction, password_hash: str) -> AdminCreated:
        ended = EndedAccess()
        user = known = await user_store.lock_by_email(tx, body.email)
        if user is None:
            user = await add_account(tx, email=body.email, name=body.name, password_hash=password_hash)
        else:
            ended = await _replace_password(tx, user, password_hash, revoke_keys=revoke_keys)
            await user_store.set_status(tx, user.user_id, "active")
            if user.status != "active":
                await audit_actions.record_for_platform(
                    tx, SYSTEM, audit_actions.USER_ACTIVATED, user.user_id
                )
        await user_store.set_admin(tx, user.user_id, is_admin=True)
        if not user.is_admin:
            await audit_actions.record_for_platform(tx, SYSTEM, audit_actions.ADMIN_GRANTED, user.user_id)
        return AdminCreated(known is None, ended)

    return await _run(database_url, body.password, make)


async def set_password(
    database_url: str, *, email: str, password: Secret, revoke_keys: bool | None = None
) -> EndedAccess:
    """Give an existing account a new password and end its sessions. Its rights and its status stay as they are.

    `revoke_keys`: whether the API keys that it made and its links to sign-in providers are removed too. None: unless its address is
    verified, as then somebody else may have made the account. That of `wrenn up` keeps them, as nobody else can make it.

    Raises:
        InvalidRequest: no e-mail address or password can be so. NotFound: there is no such account.
    """
    body = _checked(email, "unused", password)

    async def replace(tx: Transaction, password_hash: str) -> EndedAccess:
        user = await user_store.lock_by_email(tx, body.email)
        if user is None:
            raise NotFound(f"There is no account with the address {body.email}.")
        ended = await _replace_password(tx, user, password_hash, revoke_keys=revoke_keys)
        await audit_actions.record_for_platform(tx, SYSTEM, audit_actions.PASSWORD_RESET, user.user_id)
        return ended

    return await _run(database_url, body.password, replace)


async def create_sign_in_link(database_url: str, *, email: str, life_s: float) -> Secret:
    """Return a token that logs this user in once, within `life_s`; an earlier one becomes void.

    Raises:
        NotFound: there is no such account. Forbidden: it was deactivated.
    """

    async def make(tx: Transaction) -> Secret:
        user = await user_store.lock_by_email(tx, email.strip().lower())
        if user is None:
            raise NotFound(f"There is no account with the address {email}: `wrenn admin create` makes one.")
        if user.status != "active":
            raise Forbidden(f"The account {email} is deactivated: `wrenn admin create` activates it.")
        return await put_token(tx, user, Purpose.SIGN_IN, life_s=life_s)

    database = Database(database_url)
    try:
        return await database.transaction(make)
    finally:
        await database.close()


def _checked(email: str, name: str, password: Secret) -> SignUp:
    try:
        return SignUp(email=email, name=name, password=password.reveal())
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        text = str(fault["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{fault['loc'][0]}: {text}.") from None


async def _replace_password(
    tx: Transaction, user: User, password_hash: str, *, revoke_keys: bool | None
) -> EndedAccess:
    await user_store.set_password(tx, user.user_id, password_hash)
    await session_store.end_all(tx, user.user_id)
    await AccountMails.void(tx, user.user_id, Purpose.RESET, Purpose.SIGN_IN)
    await Throttle.clear(tx, Subject.account(user.email))
    if revoke_keys is None:
        revoke_keys = not user.is_email_verified and user.email != FIRST_EMAIL
    return await end_former_access(tx, user.user_id, SYSTEM) if revoke_keys else EndedAccess()


async def _run(database_url: str, password: str, work: Callable[[Transaction, str], Awaitable[T]]) -> T:
    """Hash the password and run `work` with the hash in a transaction."""
    passwords = Passwords()
    database = Database(database_url)
    try:
        password_hash = await passwords.hash(Secret(password))
        return await database.transaction(lambda tx: work(tx, password_hash))
    finally:
        await database.close()
        passwords.close()
