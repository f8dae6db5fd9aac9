"""Builds a control plane, runs it and stops it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from wrenn.base.clock import Clock, SystemClock
from wrenn.base.ids import random_hex
from wrenn.base.tasks import OwnedTasks
from wrenn.control.auth import OpenCalls
from wrenn.control.db import Database
from wrenn.control.db.embedded import ensure_running
from wrenn.control.db.migrate import migrate
from wrenn.control.events import Feed
from wrenn.control.fleet import Drains
from wrenn.control.hosts import (
    CertificateRenewal,
    HostClients,
    Monitor,
    RecentHosts,
    Replica,
    ensure_pki,
)
from wrenn.control.http import BehindProxies
from wrenn.control.images import Images, ImageSweep
from wrenn.control.loop_report import LoopReport
from wrenn.control.metrics import (
    CreateCounts,
)
from wrenn.control.oauth import ProviderClient
from wrenn.control.objects import ObjectStore
from wrenn.control.platform_metrics import PlatformMetrics
from wrenn.control.proxy import (
    link_secret,
)
from wrenn.control.sandboxes import (
    Comparison,
    Reconciler,
)
from wrenn.control.services import Services
from wrenn.control.settings import Settings
from wrenn.control.snapshots import (
    SnapshotSweep,
)
from wrenn.control.users import Passwords
from wrenn.telemetry import Metrics

from .application import build_application
from .base import Base
from .loops import loops_of
from .parts import Parts, build_parts
from .services import build_services

_LOOPS_CONNECTIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Control:
    """A running control plane: its application, and the services and loops that a test may use without it."""

    app: BehindProxies
    services: Services
    database: Database
    loops_database: Database
    monitor: Monitor
    comparison: Comparison
    reconciler: Reconciler
    sweep: SnapshotSweep
    images: Images
    image_sweep: ImageSweep
    objects: ObjectStore
    drains: Drains
    feed: Feed
    open_calls: OpenCalls
    metrics: Metrics
    renewal: CertificateRenewal
    replica: Replica
    create_counts: CreateCounts

    def begin_shutdown(self) -> None:
        """End event streams, which would never end by themselves. Call it before the server waits for open requests."""
        self.feed.close()
        self.services.live_metrics.end_streams()
        self.services.builds.close()


@asynccontextmanager
async def running_control(settings: Settings, clock: Clock | None = None) -> AsyncGenerator[Control]:
    """Build the control plane and run its background loops; stop them and close connections at the end. Sandboxes run on.

    Tests may give it another `clock` than the machine's.

    Raises:
        DatabaseUnavailable: PostgreSQL does not answer.
        Conflict: this replica has another CA or another secret for tokens than the platform.
    """
    url = settings.database_url or await ensure_running(settings.data_dir)
    await migrate(url)
    pki = settings.data_dir / "pki"
    authority = ensure_pki(pki, settings.authority)
    async with AsyncExitStack() as stack:
        database = Database(url)
        stack.push_async_callback(database.close)
        loops_database = Database(url, limit=_LOOPS_CONNECTIONS)
        stack.push_async_callback(loops_database.close)
        clients = HostClients(pki)
        stack.push_async_callback(clients.close)
        passwords = Passwords()
        stack.callback(passwords.close)
        provider_client = await stack.enter_async_context(ProviderClient())
        metrics = Metrics()
        platform_metrics = PlatformMetrics(metrics, database)
        base = Base(
            settings,
            database,
            loops_database,
            RecentHosts(loops_database, interval_s=settings.host_interval_s),
            clients,
            clock or SystemClock(),
            random_hex(8),
            platform_metrics,
            CreateCounts(loops_database, observe=platform_metrics.observe_create),
            authority,
        )
        parts = build_parts(
            base,
            passwords=passwords,
            provider_client=provider_client,
            link_key=await link_secret(database),
        )
        services = build_services(base, parts)
        loops = loops_of(base, parts)
        platform_metrics.watch_loops([each.loop for each in loops])
        control = _control(base, parts, services, metrics)
        for close in _closing(parts, services):
            stack.push_async_callback(close)
        await control.replica.enter()
        stack.push_async_callback(control.replica.leave)
        tasks = OwnedTasks()
        stack.push_async_callback(tasks.close)
        for looping in loops:
            tasks.start(looping.loop.status.name, looping.run())
        tasks.start("report loops", LoopReport(settings.data_dir, [each.loop for each in loops]).run())
        yield control


def _control(base: Base, parts: Parts, services: Services, metrics: Metrics) -> Control:
    return Control(
        app=build_application(base, parts, services, metrics),
        services=services,
        database=base.database,
        loops_database=base.loops_database,
        monitor=parts.monitor,
        comparison=parts.sandboxes.comparison,
        reconciler=parts.sandboxes.reconciler,
        sweep=parts.sandboxes.sweep,
        images=parts.images.images,
        image_sweep=parts.images.sweep,
        objects=parts.images.objects,
        drains=parts.hosts.drains,
        feed=parts.feed,
        open_calls=parts.auth.open_calls,
        metrics=metrics,
        renewal=parts.hosts.renewal,
        replica=parts.hosts.replica,
        create_counts=base.create_counts,
    )


def _closing(parts: Parts, services: Services) -> Sequence[Callable[[], Awaitable[None]]]:
    """Return what is to be called at the end."""
    return (
        parts.images.objects.close,
        parts.sandboxes.creations.close,
        parts.sandboxes.snapshot_storage.close,
        parts.sandboxes.forks.close,
        parts.sandboxes.capacity.close,
        parts.hosts.heartbeats.close,
        services.live_metrics.close,
    )
