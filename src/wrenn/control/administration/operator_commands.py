"""What the operator does to accounts on the server, past the API: `wrenn admin create`, `wrenn admin set-password`, `wrenn open`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import ValidationError

from wrenn.base.errors import Forbidden, InvalidRequest, NotFound
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails, Purpose, put_token
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.sessions import SignUp, session_store
from wrenn.control.throttle import Subject, Throttle
from wrenn.control.users import Passwords, User, add_account, user_store

T = TypeVar("T")


async def create_admin(database_url: str, *, email: str, name: str, password: Secret) -> bool:
    """Create an admin of the platform; whether the account is new. An existing account gets the password, is activated, and its sessions end.

    Raises:
        InvalidRequest: no e-mail address, name or password can be so.
    """
    body = _checked(email, name, password)

    async def make(tx: Transaction, password_hash: str) -> bool:
        user = known = await user_store.lock_by_email(tx, body.email)
        if user is None:
            user = await add_account(tx, email=body.email, name=body.name, password_hash=password_hash)
        else:
            await _replace_password(tx, user, password_hash)
            await user_store.set_status(tx, user.user_id, "active")
            if user.status != "active":
                await audit_actions.record_for_platform(
                    tx, SYSTEM, audit_actions.USER_ACTIVATED, user.user_id
                )
        await user_store.set_admin(tx, user.user_id, is_admin=True)
        if not user.is_admin:
            await audit_actions.record_for_platform(tx, SYSTEM, audit_actions.ADMIN_GRANTED, user.user_id)
        return known is None

    return await _run(database_url, body.password, make)


async def set_password(database_url: str, *, email: str, password: Secret) -> None:
    """Give an existing account a new password and end its sessions. Its rights and its status stay as they are.

    Raises:
        InvalidRequest: no e-mail address or password can be so. NotFound: there is no such account.
    """
    body = _checked(email, "unused", password)

    async def replace(tx: Transaction, password_hash: str) -> None:
        user = await user_store.lock_by_email(tx, body.email)
        if user is None:
            raise NotFound(f"There is no account with the address {body.email}.")
        await _replace_password(tx, user, password_hash)
        await audit_actions.record_for_platform(tx, SYSTEM, audit_actions.PASSWORD_RESET, user.user_id)

    await _run(database_url, body.password, replace)


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


async def _replace_password(tx: Transaction, user: User, password_hash: str) -> None:
    await user_store.set_password(tx, user.user_id, password_hash)
    await session_store.end_all(tx, user.user_id)
    await AccountMails.void(tx, user.user_id, Purpose.RESET, Purpose.SIGN_IN)
    await Throttle.clear(tx, Subject.account(user.email))


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
