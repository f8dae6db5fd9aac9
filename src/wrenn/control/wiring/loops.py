"""Lists the background loops, and what each notification of the database wakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wrenn.control.audit_log import Retention as AuditRetention
from wrenn.control.auth import CHANNEL as ACCESS
from wrenn.control.cleanup import Cleanup
from wrenn.control.db import CHANNEL as HINTS
from wrenn.control.db import Listener, NotificationHandler
from wrenn.control.e2b import (
    BuilderRetention,
)
from wrenn.control.events import CHANNEL as EVENTS
from wrenn.control.events import Retention as EventRetention
from wrenn.control.mail import CHANNEL as MAIL
from wrenn.control.metrics import (
    SampleRetention,
    TeamSampler,
)
from wrenn.control.sandboxes import (
    PauseUploads,
)
from wrenn.control.snapshots import (
    SnapshotUploads,
)

from .base import Base, Looping
from .parts import Parts


def loops_of(base: Base, parts: Parts) -> Sequence[Looping]:
    """Return the background loops of a replica."""
    settings = base.settings
    auth, sandboxes, images = parts.auth, parts.sandboxes, parts.images
    loops: list[Looping] = [
        parts.monitor,
        sandboxes.reconciler,
        sandboxes.reconciler.leases,
        sandboxes.snapshot_lifecycle.leases,
        sandboxes.comparison,
        sandboxes.sweep,
        images.images.leases,
        images.sweep,
        parts.build_worker,
        parts.build_worker.leases,
        parts.build_cleanup,
        parts.hosts.drains,
        Listener(base.database, _handlers(parts)),
        parts.feed,
        auth.open_calls,
        parts.ports.public_visits,
        auth.last_used,
        EventRetention(base.loops_database, keep_s=settings.event_retention_h * 3600),
        AuditRetention(base.loops_database, days=settings.audit_retention_days),
        Cleanup(base.loops_database),
        BuilderRetention(base.loops_database, images.objects),
        SampleRetention(base.loops_database),
        TeamSampler(base.loops_database, owner=base.owner),
        base.create_counts,
        parts.hosts.renewal,
        parts.hosts.replica,
    ]
    if settings.snapshot_uploads is SnapshotUploads.ALWAYS:
        loops.append(sandboxes.uploads)
    if settings.pause_uploads is not PauseUploads.NEVER:
        loops += [sandboxes.pause_uploading, sandboxes.pause_uploading.leases]
    if parts.mail_sender is not None:
        loops += [parts.mail_sender, parts.accounts.password_reset]
    return loops


def _handlers(parts: Parts) -> Mapping[str, NotificationHandler]:
    """Return the handlers of notifications by channel of the database."""

    def on_hint() -> None:
        parts.sandboxes.reconciler.wake()
        parts.sandboxes.changes.notify_all()

    def on_any_hint() -> None:
        parts.ports.locations.forget_all()
        parts.ports.access.forget_all()
        parts.ports.signed_files.forget_all()
        parts.ports.public_visits.wake()

    def on_access_change(_payload: str) -> None:
        parts.ports.access.forget_all()
        parts.auth.open_calls.wake()

    return {
        HINTS: parts.sandboxes.hints.handler(on_hint, on_any=on_any_hint),
        EVENTS: parts.feed.wake,
        ACCESS: on_access_change,
        **({} if parts.mail_sender is None else {MAIL: parts.mail_sender.wake}),
    }
