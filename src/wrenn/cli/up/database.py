"""The database of `wrenn up`: the operator's own if `DATABASE_URL` is set, otherwise the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from wrenn.cli.settings import external_database_url
from wrenn.linux.process import ProcessRef


def is_embedded() -> bool:
    """Whether `wrenn up` runs the embedded PostgreSQL."""
    return external_database_url() is None


async def ensure(data_dir: Path) -> str:
    """Return the database's URL; starts the embedded server if needed."""
    from wrenn.control.db.embedded import ensure_running

    return external_database_url() or await ensure_running(data_dir)


async def stop(data_dir: Path) -> None:
    """Stop the embedded server, if there is one. The operator's own database is not touched."""
    from wrenn.control.db.embedded import stop as stop_embedded

    if is_embedded() and (data_dir / "postgres").exists():
        await stop_embedded(data_dir)


def process(data_dir: Path) -> ProcessRef | None:
    """Return the main process of the embedded server if it runs."""
    try:
        pid = int((data_dir / "postgres/postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return ProcessRef.of(pid)
