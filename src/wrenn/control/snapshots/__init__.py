"""Snapshots of sandboxes, which are templates once they have a name, and the templates of the platform."""

from wrenn.control.snapshots import routes
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle, SnapshotLifecycleSettings
from wrenn.control.snapshots.reconciler import SnapshotSweep
from wrenn.control.snapshots.records import SnapshotSource, Template
from wrenn.control.snapshots.service import BAD_NAME, Snapshots
from wrenn.control.snapshots.store import find as find_template
from wrenn.control.snapshots.store import snapshot_mb, snapshot_mb_of

routers = (routes.router,)

__all__ = [
    "BAD_NAME",
    "SnapshotLifecycle",
    "SnapshotLifecycleSettings",
    "SnapshotSource",
    "SnapshotSweep",
    "Snapshots",
    "Template",
    "find_template",
    "routers",
    "snapshot_mb",
    "snapshot_mb_of",
]
