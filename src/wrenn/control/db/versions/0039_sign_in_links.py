"""Tokens of sign-in links, which the operator makes on the server, beside those that are sent by mail.

Revision ID: 0039
Revises: 0035
"""

from __future__ import annotations

from alembic import op

revision = "0039"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A replica of the version before neither makes nor takes such tokens; it deletes expired ones.
    name = op.f("ck_mailed_tokens_purpose")
    op.drop_constraint(name, "mailed_tokens")
    op.create_check_constraint(name, "mailed_tokens", "purpose IN ('verify', 'reset', 'sign_in')")
