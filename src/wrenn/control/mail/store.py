"""Statements on queued mails. Times are the database's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from wrenn.control.db import Database, Transaction, in_s
from wrenn.control.mail.message import SUBJECT_LIMIT, TEXT_LIMIT, is_mailable
from wrenn.control.mail.tables import mails

_c = mails.c
CHANNEL: Final = "wrenn_mail"
"""Notified when a mail was put into the queue."""


@dataclass(frozen=True, slots=True)
class NewMail:
    """A mail to be put into the queue.

    Attributes:
        topic: `kind:…`; takes the place of a mail with the same topic that waits.
        life_s: after so long it is not worth sending.
    """

    topic: str
    recipient: str
    subject: str
    text: str = field(repr=False)
    life_s: float


@dataclass(frozen=True, slots=True)
class TakenMail:
    """A mail that was leased for one attempt to send it."""

    mail_id: UUID
    lease: UUID
    kind: str
    attempts: int
    recipient: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)


async def put(tx: Transaction, mail: NewMail) -> None:
    """Queue a mail; it is sent once this transaction is committed."""
    assert is_mailable(mail.recipient), "whoever writes a mail looks whether it can be sent"
    assert len(mail.subject) <= SUBJECT_LIMIT and len(mail.text) <= TEXT_LIMIT, "a mail of ours is short"  # noqa: PT018
    values = {
        "id": uuid4(),
        "recipient": mail.recipient,
        "subject": mail.subject,
        "body": mail.text,
        "created_at": func.now(),
        "expires_at": in_s(mail.life_s),
        "due_at": func.now(),
        "attempts": 0,
        "lease": None,
    }
    wanted = upsert(mails).values(topic=mail.topic, **values)
    await tx.execute(wanted.on_conflict_do_update(index_elements=["topic"], set_=values))
    await tx.execute(select(func.pg_notify(CHANNEL, "")))


async def cancel(tx: Transaction, *topics: str) -> None:
    """Delete queued mails with these topics."""
    await tx.execute(delete(mails).where(_c.topic.in_(topics)))


async def take_due(database: Database, *, most: int, lease_s: float) -> list[TakenMail]:
    """Lease due mails, oldest first."""
    # A CTE is evaluated once; a subquery may be evaluated again for each row, and then returns others each time.
    due = (
        select(_c.id)
        .where(_c.due_at <= func.now(), _c.expires_at > func.now())
        .order_by(_c.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED")
    )
    lease = uuid4()
    taken = await database.execute(
        update(mails)
        .where(_c.id.in_(select(due.c.id)))
        .values(due_at=in_s(lease_s), lease=lease, attempts=_c.attempts + 1)
        .returning(mails)
    )
    return [
        TakenMail(
            mail_id=row.id,
            lease=lease,
            kind=row.topic.partition(":")[0],
            attempts=row.attempts,
            recipient=row.recipient,
            subject=row.subject,
            text=row.body,
        )
        for row in taken
    ]


async def remove(database: Database, mail: TakenMail) -> None:
    """Delete a mail that was sent, or can never be sent."""
    await database.execute(delete(mails).where(_c.id == mail.mail_id, _c.lease == mail.lease))


async def try_again(database: Database, mail: TakenMail, *, in_seconds: float) -> None:
    """Reschedule a mail that could not be sent."""
    await database.execute(
        update(mails)
        .where(_c.id == mail.mail_id, _c.lease == mail.lease)
        .values(due_at=in_s(in_seconds), lease=None)
    )


async def drop_expired(database: Database) -> Counter[str]:
    """Delete mails that are too old to be sent; how many of each kind."""
    gone = await database.execute(delete(mails).where(_c.expires_at <= func.now()).returning(_c.topic))
    return Counter(topic.partition(":")[0] for topic in gone.scalars())
