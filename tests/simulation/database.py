"""The PostgreSQL of simulations: one server, a database with all migrations, and a copy of it for each run."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import make_url

from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.testing.simulation.postgres import SEARCH_PATH, SQL

_driver: Any = asyncpg  # has no types
_numbers = itertools.count()
# In memory where that is possible: most of the time would else be the disk's.
MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None


class Server:
    """A server with the migrated database `wrenn`."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)

    @property
    def socket(self) -> str:
        """Path of the unix socket."""
        return f"{self._url.query['host']}/.s.PGSQL.{self._url.port or 5432}"

    @property
    def user(self) -> str:
        """Whom clients log in as."""
        return str(self._url.username)

    def url_of(self, database: str) -> str:
        """Return the URL of a database."""
        return self._url.set(database=database).render_as_string(hide_password=False)

    @contextmanager
    def copy(self) -> Generator[str]:
        """Make a copy of the database for one run, and yield its name."""
        name = f"run_{next(_numbers)}"
        asyncio.run(
            _run_sql(self.url_of("postgres"), f"CREATE DATABASE {name} TEMPLATE wrenn STRATEGY FILE_COPY")
        )
        try:
            yield name
        finally:
            asyncio.run(_run_sql(self.url_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def postgres_server() -> Generator[Server]:
    """Run a server for simulations."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-simulation-", dir=MEMORY))
    # PostgreSQL's user must reach it.
    folder.chmod(0o711)
    try:
        yield Server(asyncio.run(_prepare(folder)))
    finally:
        asyncio.run(stop(folder))
        shutil.rmtree(folder)


async def _prepare(folder: Path) -> str:
    url = await ensure_running(folder)
    settings = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "autovacuum = off")
    await _run_sql(url, *(f"ALTER SYSTEM SET {setting}" for setting in settings), "SELECT pg_reload_conf()")
    # The defaults of columns are bound to the simulated functions when the tables are made.
    await _run_sql(url, SQL, f"ALTER DATABASE wrenn SET search_path = {SEARCH_PATH}")
    await migrate(url)
    return url


async def _run_sql(url: str, *statements: str) -> None:
    connection = await _driver.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
