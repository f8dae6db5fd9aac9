"""Creates an admin of the platform, for `wrenn admin create` on the server."""

from __future__ import annotations

from pydantic import ValidationError

from wrenn.base.errors import InvalidRequest
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import AccountMails, Purpose
from wrenn.control.audit import SYSTEM
from wrenn.control.db import Database, Transaction
from wrenn.control.identity import audit_actions
from wrenn.control.sessions import SignUp, session_store
from wrenn.control.users import Passwords, add_account, user_store


async def create_admin(database_url: str, *, email: str, name: str, password: Secret) -> bool:
    """Create an admin of the platform; whether the account is new. An existing account gets the password, is activated, and its sessions end.

    Raises:
        InvalidRequest: no e-mail address, name or password can be so.
    """
    try:
        body = SignUp(email=email, name=name, password=password.reveal())
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        text = str(fault["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{fault['loc'][0]}: {text}.") from None
    passwords = Passwords()
    database = Database(database_url)
    try:
        password_hash = await passwords.hash(Secret(body.password))

        async def make(tx: Transaction) -> bool:
            known = await user_store.lock_by_email(tx, body.email)
            if known is None:
                user = await add_account(tx, email=body.email, name=body.name, password_hash=password_hash)
            else:
                user = known
                await user_store.set_password(tx, user.user_id, password_hash)
                await user_store.set_status(tx, user.user_id, "active")
                if user.status != "active":
                    await audit_actions.record_for_platform(
                        tx, SYSTEM, audit_actions.USER_ACTIVATED, user.user_id
                    )
                await session_store.end_all(tx, user.user_id)
                await AccountMails.void(tx, user.user_id, Purpose.RESET)
            await user_store.set_admin(tx, user.user_id, is_admin=True)
            if not user.is_admin:
                await audit_actions.record_for_platform(tx, SYSTEM, audit_actions.ADMIN_GRANTED, user.user_id)
            return known is None

        return await database.transaction(make)
    finally:
        await database.close()
        passwords.close()
