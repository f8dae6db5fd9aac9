"""Snapshots of sandboxes on hosts: taken, published as templates, removed."""

from wrenn.control.snapshots import routes
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle, SnapshotLifecycleSettings
from wrenn.control.snapshots.reconciler import SnapshotSweep
from wrenn.control.snapshots.records import NewVersion, SnapshotSource
from wrenn.control.snapshots.service import Snapshots

routers = (routes.router,)

__all__ = [
    "NewVersion",
    "SnapshotLifecycle",
    "SnapshotLifecycleSettings",
    "SnapshotSource",
    "SnapshotSweep",
    "Snapshots",
    "routers",
]
