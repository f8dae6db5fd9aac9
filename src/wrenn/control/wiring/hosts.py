"""Builds what watches, enrols and drains the hosts."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.control.enrolment import Enrolment
from wrenn.control.fleet import Drains, Fleet
from wrenn.control.hosts import (
    CertificateRenewal,
    Heartbeats,
    Monitor,
    Replica,
)
from wrenn.control.throttle import Throttle

from .auth import AuthParts
from .base import Base
from .sandboxes import SandboxParts


@dataclass(frozen=True, slots=True)
class HostParts:
    """Hosts, and the certificates between them and this replica."""

    fleet: Fleet
    drains: Drains
    enrolment: Enrolment
    heartbeats: Heartbeats
    renewal: CertificateRenewal
    replica: Replica


def build_monitor(base: Base) -> Monitor:
    """Return what finds out which hosts respond. Sandboxes are placed by it."""
    return Monitor(
        base.loops_database,
        base.hosts,
        base.clients,
        interval_s=base.settings.host_interval_s,
        missing_after_s=base.settings.missing_after_s,
    )


def build_hosts(base: Base, auth: AuthParts, sandboxes: SandboxParts, throttle: Throttle) -> HostParts:
    """Build what serves the endpoints of hosts."""
    settings, database = base.settings, base.database
    fleet = Fleet(
        database=database,
        capacity=sandboxes.capacity,
        deletions=sandboxes.deletions,
        snapshots=sandboxes.snapshots,
    )
    renewal = CertificateRenewal(settings.data_dir / "pki", settings.authority, base.clients, base.authority)
    heartbeats = Heartbeats(database)
    return HostParts(
        fleet=fleet,
        drains=Drains(
            database=database, fleet=fleet, capacity=sandboxes.capacity, sandboxes=sandboxes.host_drains
        ),
        enrolment=Enrolment(
            database=database,
            heartbeats=heartbeats,
            authority=lambda: renewal.authority,
            tokens=auth.tokens,
            throttle=throttle,
            record_activity=sandboxes.comparison.record_activity,
            count_started=sandboxes.deletions.count_started_on_host,
            clock=base.clock,
        ),
        heartbeats=heartbeats,
        renewal=renewal,
        replica=Replica(database, base.owner, renewal, auth.secret),
    )
