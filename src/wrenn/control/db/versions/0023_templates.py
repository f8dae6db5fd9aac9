"""Templates with owner, defaults and tags; those of type `base` have an image. `minimal` is one of them.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_TEMPLATE_EVENT = """
CREATE OR REPLACE FUNCTION wrenn_template_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    template templates := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    verb text := CASE WHEN TG_OP <> 'DELETE' AND template.status = 'ready' THEN 'created' ELSE 'deleted' END;
BEGIN
    INSERT INTO events (team_id, scope, type, resource_id, data)
    VALUES (
        coalesce(template.team_id, '00000000-0000-0000-0000-000000000000'),
        CASE WHEN template.team_id IS NULL THEN 'admin' ELSE 'team' END,
        'template.' || template.type || '.' || verb, template.name,
        jsonb_build_object(
            'id', template.id, 'vcpus', template.vcpus, 'memory_mb', template.memory_mb,
            'size_bytes', template.size_bytes
        )
    );
    RETURN NULL;
END
$$
"""
# Replicas of the release before know no tags: what they publish during an upgrade gets its own here. A later release may
# drop this trigger.
_UNTAGGED = """
CREATE FUNCTION wrenn_template_tag() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO template_tags (template_id, team_id, name, tag) VALUES (NEW.id, NEW.team_id, NEW.name, 'latest')
    ON CONFLICT (team_id, name, tag) WHERE team_id IS NOT NULL DO UPDATE SET template_id = EXCLUDED.template_id;
    RETURN NULL;
END
$$
"""
_TRIGGERS = (
    "template_published AFTER UPDATE OF status ON templates FOR EACH ROW"
    " WHEN (NEW.status = 'ready' AND OLD.status = 'pending' AND NEW.name IS NOT NULL AND NEW.team_id IS NOT NULL)"
    " EXECUTE FUNCTION wrenn_template_tag()",
    "template_base_created AFTER INSERT ON templates FOR EACH ROW"
    " WHEN (NEW.type = 'base' AND NEW.status = 'ready') EXECUTE FUNCTION wrenn_template_event()",
    "template_base_deleted AFTER DELETE ON templates FOR EACH ROW"
    " WHEN (OLD.type = 'base' AND OLD.status = 'ready') EXECUTE FUNCTION wrenn_template_event()",
)


def upgrade() -> None:
    for column in ("team_id", "host_id", "sandbox_id"):
        op.alter_column("templates", column, nullable=True)
    for name in ("default_user", "working_dir"):
        op.add_column("templates", sa.Column(name, sa.Text(), server_default="", nullable=False))
    for name in ("default_env", "labels"):
        op.add_column("templates", sa.Column(name, JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.add_column("templates", sa.Column("build_id", sa.Uuid(), nullable=True))
    op.add_column("templates", sa.Column("created_by", JSONB(), nullable=True))
    op.create_check_constraint(
        op.f("ck_templates_host_id"), "templates", "(type = 'snapshot') = (host_id IS NOT NULL)"
    )
    op.create_check_constraint(
        op.f("ck_templates_team_id"), "templates", "team_id IS NOT NULL OR name IS NOT NULL"
    )
    op.drop_index("uq_templates_name", "templates")
    op.create_index(
        "uq_templates_pending_name",
        "templates",
        ["team_id", "name"],
        unique=True,
        postgresql_where=sa.text("name IS NOT NULL AND status = 'pending'"),
    )
    op.create_index("ix_templates_team_id_name", "templates", ["team_id", "name"])
    op.create_table(
        "template_tags",
        sa.Column("template_id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("set_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["template_id"],
            ["templates.id"],
            name=op.f("fk_template_tags_template_id_templates"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_template_tags_team_id_teams")),
    )
    op.create_index(
        "uq_template_tags_team",
        "template_tags",
        ["team_id", "name", "tag"],
        unique=True,
        postgresql_where=sa.text("team_id IS NOT NULL"),
    )
    op.create_index(
        "uq_template_tags_platform",
        "template_tags",
        ["name", "tag"],
        unique=True,
        postgresql_where=sa.text("team_id IS NULL"),
    )
    op.create_index("ix_template_tags_template_id", "template_tags", ["template_id"])
    op.execute(
        "INSERT INTO templates (id, name, type, image, vcpus, memory_mb, status) VALUES"
        " ('00000000-0000-0000-0000-000000000000', 'minimal', 'base', 'minimal', 1, 512, 'ready')"
    )
    op.execute(
        "INSERT INTO template_tags (template_id, team_id, name, tag)"
        " SELECT id, team_id, name, 'latest' FROM templates WHERE status = 'ready' AND name IS NOT NULL"
    )
    op.execute(_TEMPLATE_EVENT)
    op.execute(_UNTAGGED)
    for trigger in _TRIGGERS:
        op.execute(f"CREATE TRIGGER {trigger}")
    op.add_column("sandboxes", sa.Column("template_id", sa.Uuid(), nullable=True))
