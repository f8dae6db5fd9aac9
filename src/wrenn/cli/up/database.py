"""The database of an installation: the operator's own if `wrenn up` was given `DATABASE_URL`, otherwise the embedded PostgreSQL.

`wrenn up` writes down which one it is, so that a command without `DATABASE_URL` in its environment works on the same database.
"""

from __future__ import annotations

from pathlib import Path

from wrenn.base.errors import Conflict, NotFound
from wrenn.cli.settings import external_database_url, up_timeout_s
from wrenn.cli.up.layout import Layout, write_private
from wrenn.linux.process import ProcessRef


def external_url(data_dir: Path) -> str | None:
    """Return the URL of the operator's own database: `DATABASE_URL`, otherwise what `wrenn up` wrote down. None: it is embedded."""
    return external_database_url() or _recorded(data_dir)


async def set_up(layout: Layout) -> str:
    """Return the URL of the database that `wrenn up` uses, and write it down; starts the embedded server, and makes it the first time.

    Raises:
        Conflict: the installation has another database.
    """
    from wrenn.control.db.embedded import ensure_running

    given, recorded = external_database_url(), _recorded(layout.data_dir)
    record = layout.database_url
    if given is not None and recorded is None and _embedded(layout.data_dir).exists():
        raise Conflict(
            f"DATABASE_URL is set, but the data of this platform is in {_embedded(layout.data_dir)}: unset it, or move the data"
            " to that database and then move the folder away."
        )
    if given is not None and recorded not in (None, given):
        raise Conflict(
            f"DATABASE_URL is another one than in {record}: unset it. If the database has got a new address, remove that file first."
        )
    if given is not None and recorded is None:
        write_private(record, f"{given}\n")
    return given or recorded or await ensure_running(layout.data_dir, timeout_s=up_timeout_s())


async def ensure(data_dir: Path) -> str:
    """Return the URL of the existing database; starts the embedded server if it does not run.

    Raises:
        NotFound: there is no platform in the folder.
    """
    from wrenn.control.db.embedded import ensure_running

    url = external_url(data_dir)
    if url is not None:
        return url
    if not _embedded(data_dir).exists():
        raise NotFound(
            f"There is no platform in {data_dir}: `wrenn up` sets one up. For that of other machines set DATABASE_URL."
        )
    return await ensure_running(data_dir, timeout_s=up_timeout_s())


async def stop(data_dir: Path) -> None:
    """Stop the embedded server, if there is one. The operator's own database is not touched."""
    from wrenn.control.db.embedded import stop as stop_embedded

    if _embedded(data_dir).exists():
        await stop_embedded(data_dir)


def process(data_dir: Path) -> ProcessRef | None:
    """Return the main process of the embedded server if it runs."""
    try:
        pid = int((_embedded(data_dir) / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return ProcessRef.of(pid)


def _embedded(data_dir: Path) -> Path:
    return data_dir / "postgres"


def _recorded(data_dir: Path) -> str | None:
    try:
        return Layout(data_dir).database_url.read_text().strip() or None
    except FileNotFoundError:
        return None
