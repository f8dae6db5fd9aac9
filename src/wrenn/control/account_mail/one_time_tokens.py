"""Tokens that let their owner do one thing once, without a login: what they look like, and how they are looked up and used up."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import NotFound
from wrenn.base.ids import random_hex
from wrenn.base.secrets import Secret
from wrenn.control.account_mail import token_store
from wrenn.control.account_mail.token_store import MailedTo, Purpose
from wrenn.control.db import Database, Transaction
from wrenn.control.users import User, user_store

_PREFIXES: Final = {Purpose.VERIFY: "wrv_", Purpose.RESET: "wrp_", Purpose.SIGN_IN: "wrl_"}
_FORM: Final = re.compile(r"wr[vpl]_[0-9a-f]{64}")
_GONE: Final = "This link cannot be used: it was used before, replaced by a newer one, or has expired."


def new_token(purpose: Purpose) -> Secret:
    """Return a new token of this purpose."""
    return Secret(f"{_PREFIXES[purpose]}{random_hex(32)}")


async def put_token(tx: Transaction, user: User, purpose: Purpose, *, life_s: float) -> Secret:
    """Store and return a token for the user, in place of an earlier one of this purpose."""
    token = new_token(purpose)
    await token_store.put(
        tx, user.user_id, purpose, token_hash=token.sha256_hex(), email=user.email, life_s=life_s
    )
    return token


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A valid token that somebody showed."""

    purpose: Purpose
    token_hash: str
    sent: MailedTo

    async def use(self, tx: Transaction) -> User:
        """Use up the token and return its user, locked. The user is locked first, as everywhere else.

        Raises:
            NotFound: it is not valid any more.
        """
        user = await user_store.lock(tx, self.sent.user_id)
        if user is None or user.status != "active" or user.email != self.sent.email:
            raise NotFound(_GONE)
        if not await token_store.use(tx, self.purpose, self.token_hash):
            raise NotFound(_GONE)
        return user


async def find_token(database: Database, purpose: Purpose, token: str) -> ShownToken:
    """Look up a token that somebody shows; it is not used up.

    Raises:
        NotFound: it is not a valid token of this purpose.
    """
    if _FORM.fullmatch(token) is None or not token.startswith(_PREFIXES[purpose]):
        raise NotFound(_GONE)
    token_hash = Secret(token).sha256_hex()
    sent = await token_store.find(database, purpose, token_hash)
    if sent is None:
        raise NotFound(_GONE)
    return ShownToken(purpose, token_hash, sent)
