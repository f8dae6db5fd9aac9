"""Table of mails that are not sent yet."""

from __future__ import annotations

from sqlalchemy import TIMESTAMP, CheckConstraint, Column, Integer, Table, Text, Uuid, func, text

from wrenn.control.db import metadata

mails = Table(
    "mails",
    metadata,
    Column("id", Uuid, primary_key=True),
    # What it is about: `kind:…`. A newer mail takes the place of one that waits, as the older one's link is void.
    Column("topic", Text, nullable=False, unique=True),
    Column("recipient", Text, nullable=False),
    Column("subject", Text, nullable=False),
    # Holds a secret: a row goes when its mail is sent or too old, and none of it is ever logged.
    Column("body", Text, nullable=False),
    Column("created_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now()),
    # When it is not worth sending any more.
    Column("expires_at", TIMESTAMP(timezone=True), nullable=False, index=True),
    # When it is tried next. Whoever takes it moves this on by the lease, so that another one goes on if that one dies.
    Column("due_at", TIMESTAMP(timezone=True), nullable=False, server_default=func.now(), index=True),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    # Of the attempt under way; a late one, whose lease ran out, changes nothing.
    Column("lease", Uuid),
    CheckConstraint("length(subject) <= 200 AND length(body) <= 4000", name="size"),
)
