"""`wrenn control`: serve the REST API until told to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import replace
from typing import Final

import uvicorn
import uvloop

from wrenn.base.descriptors import raise_descriptor_limit
from wrenn.base.errors import WrennError
from wrenn.base.faults import arm_faults
from wrenn.base.gc_tuning import freeze_gc
from wrenn.base.logging import configure_logging
from wrenn.base.signals import leave_signals_to_uvicorn
from wrenn.base.stack_dumps import dump_stacks_on_signal, limit_end
from wrenn.control.db.embedded import ensure_running
from wrenn.control.db.migrate import migrate
from wrenn.control.http.domain import are_ports_below_pages
from wrenn.control.http.server import Server
from wrenn.control.settings import Settings
from wrenn.control.wiring import running_control
from wrenn.relay import SERVER_OPTIONS
from wrenn.telemetry import serving_metrics

_log = logging.getLogger(__name__)

_GRACE_S: Final = 10
"""How long requests in flight may go on at shutdown."""
_END_LIMIT_S: Final = 25
"""How long the clean-up may take after that."""
_KEEP_ALIVE_S: Final = 75
"""Above the idle time of usual load balancers, so that it is they who close a connection."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Sandboxes run on."""
    dump_stacks_on_signal()
    if are_ports_below_pages(settings.domain, settings.accounts.public_url):
        _log.warning(
            "ports of sandboxes have host names below that of the dashboard: set WRENN_DOMAIN to another site",
            extra={"public_url": settings.accounts.public_url},
        )
    async with running_control(settings) as control, serving_metrics(control.metrics, settings.metrics):
        config = uvicorn.Config(
            control.app,
            host=settings.listen_host,
            port=settings.listen_port,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
            **SERVER_OPTIONS,
        )
        leave_signals_to_uvicorn()
        freeze_gc()
        try:
            await Server(config, control.begin_shutdown).serve()
        finally:
            limit_end(_END_LIMIT_S)


def run(settings: Settings) -> None:
    """Serve with these settings until told to stop."""
    arm_faults(settings.faults)
    if settings.database_url is None:
        # Before the loop that serves: uvloop cannot start a program as another user.
        settings = replace(settings, database_url=asyncio.run(ensure_running(settings.data_dir)))
    uvloop.run(serve(settings))


def migrate_only() -> list[str]:
    """Bring the database up to date without serving; returns the revisions that were applied.

    Raises:
        WrennError: a setting cannot be used, or the database does not answer.
    """
    settings = Settings.from_environment()

    async def run_once() -> list[str]:
        return await migrate(settings.database_url or await ensure_running(settings.data_dir))

    return asyncio.run(run_once())


def main() -> None:
    """Entry point; exits with 1 and one sentence when it cannot start."""
    configure_logging()
    raise_descriptor_limit()
    try:
        run(Settings.from_environment())
    except WrennError as error:
        sys.exit(f"wrenn control: {error.message}")
