"""Builds sandboxes, their snapshots and their templates."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.units import MIB
from wrenn.control.builds import is_running as is_build_running
from wrenn.control.db import Hints
from wrenn.control.hosts import (
    Monitor,
)
from wrenn.control.images import Images
from wrenn.control.placement import Overcommit
from wrenn.control.sandboxes import (
    BackOff,
    Capacity,
    ChangeNotifier,
    CommittingMoves,
    Comparison,
    ComparisonSettings,
    Creations,
    Deletions,
    DescriptionChanges,
    Disks,
    Forks,
    HostDrains,
    InternalSandboxes,
    Lookup,
    Moves,
    MoveStep,
    NetworkRules,
    Networks,
    Pauses,
    PauseUploading,
    PauseUploads,
    PlacingAgain,
    Reconciler,
    ReconcilerSettings,
    Recoveries,
    Resumes,
    RunningSandboxes,
    StoreState,
    TimeLimitChanges,
    WaitLimits,
)
from wrenn.control.snapshots import (
    BackgroundUploads,
    SnapshotLifecycle,
    SnapshotLifecycleSettings,
    Snapshots,
    SnapshotStorage,
    SnapshotSweep,
    SnapshotUploads,
)
from wrenn.control.templates import Templates

from .auth import AuthParts
from .base import Base, size_limits


@dataclass(frozen=True, slots=True)
class SandboxParts:
    """Sandboxes, their snapshots and templates."""

    hints: Hints
    changes: ChangeNotifier
    reconciler: Reconciler
    comparison: Comparison
    capacity: Capacity
    lookup: Lookup
    creations: Creations
    pauses: Pauses
    resumes: Resumes
    moves: Moves
    recoveries: Recoveries
    pause_uploading: PauseUploading
    deletions: Deletions
    host_drains: HostDrains
    time_limit_changes: TimeLimitChanges
    forks: Forks
    disks: Disks
    networks: Networks
    description_changes: DescriptionChanges
    running_sandboxes: RunningSandboxes
    snapshots: Snapshots
    templates: Templates
    snapshot_lifecycle: SnapshotLifecycle
    internal: InternalSandboxes
    sweep: SnapshotSweep
    snapshot_storage: SnapshotStorage
    uploads: BackgroundUploads


def build_sandboxes(base: Base, auth: AuthParts, monitor: Monitor, images: Images) -> SandboxParts:
    """Build sandboxes, snapshots and templates. `monitor` knows which hosts respond."""
    settings, database, clients = base.settings, base.database, base.clients
    hints = Hints(sender=base.owner)
    changes = ChangeNotifier(database)
    back_off = BackOff()
    capacity = Capacity(
        database,
        base.hosts,
        monitor,
        overcommit=Overcommit(settings.memory_overcommit, settings.disk_overcommit, settings.vcpu_overcommit),
        defaults=settings.quotas,
        back_off=back_off,
        uploads_snapshots=settings.snapshot_uploads is not SnapshotUploads.NEVER,
    )
    snapshot_lifecycle = SnapshotLifecycle(
        database=database,
        clients=clients,
        owner=base.owner,
        settings=SnapshotLifecycleSettings(
            lease_s=settings.lease_s,
            take_timeout_s=settings.start_timeout_s,
            retry_s=settings.start_retry_s,
            limits=settings.quotas,
        ),
    )
    snapshot_storage = SnapshotStorage(
        database=database,
        clients=clients,
        images=images,
        leases=snapshot_lifecycle.leases,
        clock=base.clock,
        retry_s=settings.start_retry_s,
        limits=settings.quotas,
    )
    store_state = StoreState(database, clients, images, settings.start_retry_s)
    reconciler = Reconciler(
        database=database,
        hints=hints,
        clients=clients,
        changes=changes,
        owner=base.owner,
        settings=ReconcilerSettings(
            lease_s=settings.lease_s,
            start_timeout_s=settings.start_timeout_s,
            start_retry_s=settings.start_retry_s,
            keep_stored=settings.pause_uploads is PauseUploads.ALWAYS,
        ),
        back_off=back_off,
        place_again=PlacingAgain(
            capacity=capacity, hints=hints, back_off=back_off, owner=base.owner
        ).place_again,
        move=MoveStep(
            database=database,
            hints=hints,
            clients=clients,
            store_state=store_state,
            commit=CommittingMoves(capacity=capacity, hints=hints, owner=base.owner).commit_move,
            owner=base.owner,
            lease_s=settings.lease_s,
            retry_s=settings.start_retry_s,
        ),
        image_for=snapshot_storage.image_for,
    )
    lookup = Lookup(database, auth.authenticator, is_build_running)
    wait_limits = WaitLimits(
        start_s=settings.start_timeout_s, change_s=settings.start_retry_s + settings.start_timeout_s
    )
    network_rules = NetworkRules(settings.private_networks)
    resumes = Resumes(
        database=database,
        hints=hints,
        lookup=lookup,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    forks = Forks(
        database=database,
        hints=hints,
        lookup=lookup,
        changes=changes,
        reconciler=reconciler,
        snapshots=snapshot_lifecycle,
        capacity=capacity,
        wait_limits=wait_limits,
    )
    creations = Creations(
        database=database,
        hints=hints,
        changes=changes,
        reconciler=reconciler,
        capacity=capacity,
        limits=size_limits(settings),
        network_rules=network_rules,
        wait_limits=wait_limits,
        observer=base.create_counts,
    )
    return SandboxParts(
        hints=hints,
        changes=changes,
        reconciler=reconciler,
        comparison=Comparison(
            database=base.loops_database,
            hosts=base.hosts,
            hints=hints,
            clients=clients,
            changes=changes,
            reconciler=reconciler,
            clock=base.clock,
            settings=ComparisonSettings(
                interval_s=settings.host_interval_s,
                grace_s=settings.unknown_grace_s,
            ),
        ),
        capacity=capacity,
        lookup=lookup,
        creations=creations,
        pauses=Pauses(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            wait_limits=wait_limits,
        ),
        resumes=resumes,
        recoveries=Recoveries(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        pause_uploading=PauseUploading(
            database=base.loops_database,
            store_state=store_state,
            clock=base.clock,
            owner=base.owner,
            lease_s=settings.lease_s,
            uploads=settings.pause_uploads,
            limits=settings.quotas,
            interval_s=settings.host_interval_s,
        ),
        moves=Moves(
            database=database,
            hints=hints,
            lookup=lookup,
            changes=changes,
            reconciler=reconciler,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        host_drains=HostDrains(database=database, hints=hints, reconciler=reconciler, capacity=capacity),
        deletions=Deletions(
            database=database, hints=hints, lookup=lookup, changes=changes, reconciler=reconciler
        ),
        time_limit_changes=TimeLimitChanges(
            database=database, hints=hints, lookup=lookup, reconciler=reconciler
        ),
        forks=forks,
        disks=Disks(
            hints=hints, clients=clients, lookup=lookup, capacity=capacity, disk_max_mb=settings.max_disk_mb
        ),
        description_changes=DescriptionChanges(database=database, hints=hints, lookup=lookup),
        networks=Networks(
            database=database, hints=hints, clients=clients, lookup=lookup, rules=network_rules
        ),
        running_sandboxes=RunningSandboxes(
            database=database,
            clients=clients,
            lookup=lookup,
            resumes=resumes,
            open_calls=auth.open_calls,
        ),
        templates=Templates(database=database, drop_snapshot=snapshot_lifecycle.drop),
        snapshots=Snapshots(database=database, lifecycle=snapshot_lifecycle, find_source=lookup.source),
        snapshot_lifecycle=snapshot_lifecycle,
        internal=InternalSandboxes(
            database=database,
            hints=hints,
            changes=changes,
            reconciler=reconciler,
            clients=clients,
            creations=creations,
            capacity=capacity,
            wait_limits=wait_limits,
        ),
        sweep=SnapshotSweep(
            database=base.loops_database,
            hosts=base.hosts,
            clients=clients,
            lifecycle=snapshot_lifecycle,
            clock=base.clock,
            remove_copies=forks.remove_abandoned_copies,
            interval_s=settings.host_interval_s,
            unknown_grace_s=settings.unknown_grace_s,
            copies_b=settings.snapshot_copies_mb * MIB,
        ),
        snapshot_storage=snapshot_storage,
        uploads=BackgroundUploads(
            database=base.loops_database,
            storage=snapshot_storage,
            clock=base.clock,
            interval_s=settings.host_interval_s,
        ),
    )
