"""Thousands of sandboxes in the list: rows of a host that does not respond, so no loop looks for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.integration.conftest import run_sql

_SILENT = "11111111-1111-4111-8111-111111111111"


@asynccontextmanager
async def copies_of(database_url: str, name: str, count: int) -> AsyncGenerator[None]:
    """So many rows like the running sandbox of this name, called `copy 1` and so on."""
    copy = f"jsonb_build_object('id', gen_random_uuid(), 'host_id', '{_SILENT}', 'status', 'missing', 'name', 'copy ' || n, 'idempotency_key', null)"
    await run_sql(
        database_url,
        f"INSERT INTO hosts SELECT (jsonb_populate_record(h, jsonb_build_object('id', '{_SILENT}',"
        " 'address', '[100::1]:1', 'name', 'silent', 'status', 'unreachable'))).* FROM hosts h LIMIT 1",
        f"INSERT INTO sandboxes SELECT (jsonb_populate_record(s, {copy})).* FROM sandboxes s, generate_series(1, {count}) n"
        f" WHERE s.name = '{name}' AND s.status = 'running'",
    )
    try:
        yield
    finally:
        await run_sql(
            database_url,
            f"DELETE FROM sandboxes WHERE host_id = '{_SILENT}'",
            f"DELETE FROM hosts WHERE id = '{_SILENT}'",
        )
