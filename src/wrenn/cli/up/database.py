"""The database of `wrenn up`: the operator's own where `DATABASE_URL` is set, else the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from wrenn.cli.settings import external_database_url
from wrenn.linux.process import ProcessRef


def is_embedded() -> bool:
    """True when `wrenn up` brings its own PostgreSQL."""
    return external_database_url() is None


async def ensure(data_dir: Path) -> str:
    """The database's URL, after the embedded server was started if it is that one and did not run."""
    from wrenn.control.db.embedded import ensure_running

    return external_database_url() or await ensure_running(data_dir)


async def stop(data_dir: Path) -> None:
    """Stop the embedded server, if there is one. The operator's own is left alone."""
    from wrenn.control.db.embedded import stop as stop_embedded

    if is_embedded() and (data_dir / "postgres").exists():
        await stop_embedded(data_dir)


def process(data_dir: Path) -> ProcessRef | None:
    """The embedded server's first process, if it lives."""
    try:
        pid = int((data_dir / "postgres/postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return ProcessRef.of(pid)
