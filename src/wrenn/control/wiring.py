"""The one place where the control plane's objects are built."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from fastapi import FastAPI

from wrenn.base.clock import SystemClock
from wrenn.base.ids import random_hex
from wrenn.base.tasks import OwnedTasks
from wrenn.control.auth import Authenticator
from wrenn.control.db import Database, Hints
from wrenn.control.db.embedded import ensure_running
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts import HostClients, Monitor, ensure_pki, register
from wrenn.control.http.app import build_app
from wrenn.control.keys import LastUsed
from wrenn.control.placement import Overcommit
from wrenn.control.sandboxes import (
    Changes,
    Commands,
    Comparison,
    Files,
    Reconciler,
    ReconcilerSettings,
    Sandboxes,
    SandboxLimits,
    routers,
)
from wrenn.control.settings import Settings

LOCAL_HOST: Final = "local"
"""Name of the one host that comes from the settings."""


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane: its application, and the loops that a test may step by hand."""

    app: FastAPI
    database: Database
    monitor: Monitor
    comparison: Comparison
    reconciler: Reconciler


@asynccontextmanager
async def running_control(settings: Settings) -> AsyncGenerator[Control]:
    """Build the control plane and run its loops; let go of everything at the end. Sandboxes run on.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
    """
    url = settings.database_url or await ensure_running(settings.data_dir)
    await migrate(url)
    pki = settings.data_dir / "pki"
    ensure_pki(pki)
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        clients = HostClients(pki)
        stack.push_async_callback(clients.close)
        control, sandboxes, loops = _build(settings, database, clients)
        stack.push_async_callback(sandboxes.close)
        await register(database, name=LOCAL_HOST, address=settings.agent_url)
        tasks = OwnedTasks()
        stack.push_async_callback(tasks.close)
        for name, loop in loops.items():
            tasks.start(name, loop)
        yield control


def _build(
    settings: Settings, database: Database, clients: HostClients
) -> tuple[Control, Sandboxes, Mapping[str, Coroutine[object, object, None]]]:
    owner = random_hex(8)
    clock = SystemClock()
    hints = Hints(database, sender=owner)
    changes = Changes(database)
    monitor = Monitor(database, clients, interval_s=settings.host_interval_s)
    last_used = LastUsed(database, clock)
    authenticator = Authenticator(database, last_used)
    reconciler = Reconciler(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        owner=owner,
        settings=ReconcilerSettings(
            lease_s=settings.lease_s,
            start_timeout_s=settings.start_timeout_s,
            start_retry_s=settings.start_retry_s,
        ),
    )
    comparison = Comparison(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        clock=clock,
        interval_s=settings.host_interval_s,
        missing_after_s=settings.missing_after_s,
        unknown_grace_s=settings.unknown_grace_s,
    )
    sandboxes = Sandboxes(
        database=database,
        hints=hints,
        authenticator=authenticator,
        clients=clients,
        monitor=monitor,
        changes=changes,
        reconciler=reconciler,
        limits=SandboxLimits(
            settings.max_vcpus, settings.min_memory_mb, settings.max_memory_mb, settings.start_timeout_s
        ),
        overcommit=Overcommit(settings.memory_overcommit, settings.disk_overcommit),
    )

    def on_hint() -> None:
        reconciler.wake()
        changes.tell_all()

    services = {
        "authenticator": authenticator,
        "sandboxes": sandboxes,
        "commands": Commands(sandboxes),
        "files": Files(sandboxes),
    }
    loops = {
        "look at hosts": monitor.run(),
        "reconcile": reconciler.run(),
        "compare with hosts": comparison.run(),
        "listen for hints": hints.listen(on_hint),
        "write last use of keys": last_used.run(),
    }
    return Control(build_app(routers, services), database, monitor, comparison, reconciler), sandboxes, loops
