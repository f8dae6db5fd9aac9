"""Statements on tokens that work once, and on requests for those that are sent by mail. Times are the database's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.base.ids import UserId
from wrenn.control.account_mail.tables import mailed_tokens as tokens
from wrenn.control.account_mail.tables import requested_mails as requests
from wrenn.control.db import Database, Transaction, in_s, span_s


class Purpose(StrEnum):
    """What a token may be used for. That of `SIGN_IN` is not sent by mail, the operator gets it on the server."""

    VERIFY = "verify"
    RESET = "reset"
    SIGN_IN = "sign_in"


@dataclass(frozen=True, slots=True)
class MailedTo:
    """The user of a mailed token, and the address that it was sent to."""

    user_id: UserId
    email: str


async def put(
    tx: Transaction, user_id: UserId, purpose: Purpose, *, token_hash: str, email: str, life_s: float
) -> None:
    """Insert a token, in place of the user's earlier one of this purpose."""
    values = {
        "token_hash": token_hash,
        "email": email,
        "created_at": func.now(),
        "expires_at": in_s(life_s),
    }
    wanted = upsert(tokens).values(user_id=user_id.value, purpose=purpose, **values)
    await tx.execute(wanted.on_conflict_do_update(index_elements=["user_id", "purpose"], set_=values))


def _is_valid(purpose: Purpose, token_hash: str) -> ColumnElement[bool]:
    return and_(
        tokens.c.token_hash == token_hash, tokens.c.purpose == purpose, tokens.c.expires_at > func.now()
    )


async def find(database: Database, purpose: Purpose, token_hash: str) -> MailedTo | None:
    """Return whom this token was sent to; None: it is not valid."""
    found = select(tokens.c.user_id, tokens.c.email).where(_is_valid(purpose, token_hash))
    row = (await database.execute(found, repeatable=True)).one_or_none()
    return None if row is None else MailedTo(UserId(row.user_id), row.email)


async def use(tx: Transaction, purpose: Purpose, token_hash: str) -> bool:
    """Delete the token so that it works only once; False: it is not valid any more. Call it under the user's lock."""
    used = await tx.execute(delete(tokens).where(_is_valid(purpose, token_hash)).returning(tokens.c.user_id))
    return used.one_or_none() is not None


async def void(tx: Transaction, user_id: UserId, *purposes: Purpose) -> None:
    """Delete the user's tokens of these purposes."""
    await tx.execute(delete(tokens).where(tokens.c.user_id == user_id.value, tokens.c.purpose.in_(purposes)))


async def request(database: Database, purpose: Purpose, email: str) -> None:
    """Request a mail to this address, which is written later if the address has an account."""
    await database.execute(upsert(requests).values(purpose=purpose, email=email).on_conflict_do_nothing())


async def take_requests(tx: Transaction, *, most: int) -> list[tuple[Purpose, str]]:
    """Delete and return requests that this transaction answers."""
    # A CTE is evaluated once; a subquery may be evaluated again for each row, and then returns others each time.
    oldest = (
        select(requests.c.purpose, requests.c.email)
        .order_by(requests.c.created_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("oldest")
        .prefix_with("MATERIALIZED")
    )
    key = tuple_(requests.c.purpose, requests.c.email)
    taken = await tx.execute(
        delete(requests)
        .where(key.in_(select(oldest.c.purpose, oldest.c.email)))
        .returning(requests.c.purpose, requests.c.email)
    )
    return [(Purpose(row.purpose), row.email) for row in taken]


async def forget_old(database: Database, *, requests_older_s: float) -> None:
    """Delete expired tokens, and requests that nobody answered since mail is no longer configured."""
    await database.execute(delete(tokens).where(tokens.c.expires_at <= func.now()))
    await database.execute(
        delete(requests).where(requests.c.created_at < func.now() - span_s(requests_older_s))
    )
