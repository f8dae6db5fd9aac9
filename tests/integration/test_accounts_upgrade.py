"""A database that the former version filled comes up to date with all that is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from wrenn.base.secrets import Secret
from wrenn.control.administration import create_admin
from wrenn.control.db.connect import create_engine
from wrenn.control.db.migrate import migrate
from wrenn.control.db.upgrade import alembic_config
from wrenn.control.settings import Settings
from wrenn.testing.agent_host import AgentHost

from .conftest import client, environment_of, run_sql, running_platform
from .people import PASSWORD, log_in

_driver: Any = asyncpg  # has no types
KEY = Secret(f"wrn_{'ab' * 16}")

FILL = f"""
INSERT INTO users (id, email, name, is_admin) VALUES
  ('00000000-0000-4000-8000-000000000001', 'admin@localhost', 'Admin', true),
  ('00000000-0000-4000-8000-000000000002', 'Upper@Example.com', 'Upper', false);
INSERT INTO teams (id, name, slug) VALUES
  ('00000000-0000-4000-8000-00000000000a', 'Admin''s Team', 'aaaaaa-aaaaaa'),
  ('00000000-0000-4000-8000-00000000000b', 'Two owners', 'bbbbbb-bbbbbb'),
  ('00000000-0000-4000-8000-00000000000c', 'No owner', 'cccccc-cccccc');
INSERT INTO users_teams (team_id, user_id, is_default, role, created_at) VALUES
  ('00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-000000000001', true, 'owner', now()),
  ('00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-000000000001', false, 'owner', now()),
  ('00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-000000000002', false, 'owner', now() - interval '1 d'),
  ('00000000-0000-4000-8000-00000000000c', '00000000-0000-4000-8000-000000000002', false, 'member', now());
INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix, created_by) VALUES
  ('00000000-0000-4000-8000-0000000000aa', '00000000-0000-4000-8000-00000000000a', 'wrenn up', '{KEY.sha256_hex()}',
   'wrn_ababab', '00000000-0000-4000-8000-000000000001');
"""


@pytest.fixture
async def old_url(template_url: str) -> AsyncIterator[str]:
    """A database at the former version, with rows in it."""
    admin = make_url(template_url).set(database="postgres").render_as_string()
    await run_sql(admin, "CREATE DATABASE test_old")
    url = make_url(template_url).set(database="test_old").render_as_string()

    def upgrade(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "0002")

    engine = create_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
        await connection.commit()
    await engine.dispose()
    await run_sql(url, FILL)
    yield url
    await run_sql(admin, "DROP DATABASE test_old WITH (FORCE)")


async def test_users_teams_and_keys_go_on_after_an_upgrade(
    old_url: str, data_dir: Path, pki: Path, host: AgentHost
):
    await migrate(old_url)
    connection = await _driver.connect(old_url)
    roles = await connection.fetch(
        "SELECT name, email, role FROM users_teams JOIN users ON users.id = user_id"
        " JOIN (SELECT id, name AS team FROM teams) t ON t.id = team_id ORDER BY team_id, users.id"
    )
    await connection.close()
    assert [(row["email"], row["role"]) for row in roles] == [
        ("admin@localhost", "owner"),
        ("admin@localhost", "admin"),
        ("upper@example.com", "owner"),
        ("upper@example.com", "owner"),
    ]
    settings = Settings.from_environment(environment_of(data_dir, old_url))
    async with running_platform(settings, host, KEY) as platform:
        path = await platform.create()
        assert (await platform.api.get(path)).status_code == 200
        # The first admin of `wrenn up` gets a password, and has the sandboxes of that key.
        await create_admin(old_url, email="admin@localhost", name="Admin", password=Secret(PASSWORD))
        said = (await log_in(platform.url, "admin@localhost")).json()
        async with client(platform.url, None) as api:
            mine = await api.get(path, headers={"Authorization": f"Bearer {said['token']}"})
        assert mine.status_code == 200
        assert said["is_admin"] is True
