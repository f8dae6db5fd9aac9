"""Snapshots of sandboxes on hosts: taken, published as templates, removed."""

from wrenn.control.snapshots import routes
from wrenn.control.snapshots.lifecycle import SnapshotLifecycle, SnapshotLifecycleSettings
from wrenn.control.snapshots.records import MayReplace, NewVersion, SnapshotSource, SnapshotUploads
from wrenn.control.snapshots.service import Snapshots
from wrenn.control.snapshots.storage import BackgroundUploads, NotStoredYet, SnapshotStorage
from wrenn.control.snapshots.sweep import SnapshotSweep
from wrenn.control.snapshots.types import CreateSnapshot

routers = (routes.router,)

__all__ = [
    "BackgroundUploads",
    "CreateSnapshot",
    "MayReplace",
    "NewVersion",
    "NotStoredYet",
    "SnapshotLifecycle",
    "SnapshotLifecycleSettings",
    "SnapshotSource",
    "SnapshotStorage",
    "SnapshotSweep",
    "SnapshotUploads",
    "Snapshots",
    "routers",
]
