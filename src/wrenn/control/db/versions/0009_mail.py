"""Mails that wait to be sent, tokens that are sent by mail, and verified addresses.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _time(name: str, **more: object) -> sa.Column[object]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=False, **more)  # type: ignore[arg-type]


def upgrade() -> None:
    op.create_table(
        "mails",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        _time("created_at", server_default=sa.func.now()),
        _time("expires_at"),
        _time("due_at", server_default=sa.func.now()),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease", sa.Uuid()),
        sa.CheckConstraint("length(subject) <= 200 AND length(body) <= 4000", name=op.f("ck_mails_size")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mails")),
        sa.UniqueConstraint("topic", name=op.f("uq_mails_topic")),
    )
    op.create_index(op.f("ix_mails_expires_at"), "mails", ["expires_at"])
    op.create_index(op.f("ix_mails_due_at"), "mails", ["due_at"])
    op.create_table(
        "mailed_tokens",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        _time("created_at", server_default=sa.func.now()),
        _time("expires_at"),
        sa.CheckConstraint("purpose IN ('verify', 'reset')", name=op.f("ck_mailed_tokens_purpose")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_mailed_tokens_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "purpose", name=op.f("pk_mailed_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_mailed_tokens_token_hash")),
    )
    op.create_index(op.f("ix_mailed_tokens_expires_at"), "mailed_tokens", ["expires_at"])
    op.create_table(
        "requested_mails",
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        _time("created_at", server_default=sa.func.now()),
        sa.CheckConstraint("purpose IN ('verify', 'reset')", name=op.f("ck_requested_mails_purpose")),
        sa.PrimaryKeyConstraint("purpose", "email", name=op.f("pk_requested_mails")),
    )
    op.add_column("users", sa.Column("email_verified_at", sa.TIMESTAMP(timezone=True)))
