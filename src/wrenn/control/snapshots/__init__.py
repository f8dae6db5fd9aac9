"""Templates: snapshots that teams keep of sandboxes, their endpoints, and the images of the platform."""

from wrenn.control.snapshots import routes
from wrenn.control.snapshots.lifecycle import Keeper, KeeperSettings
from wrenn.control.snapshots.reconciler import Sweep
from wrenn.control.snapshots.records import Source, Template
from wrenn.control.snapshots.service import BAD_NAME, Snapshots
from wrenn.control.snapshots.store import find as find_template
from wrenn.control.snapshots.store import snapshot_mb, snapshot_mb_of

routers = (routes.router,)

__all__ = [
    "BAD_NAME",
    "Keeper",
    "KeeperSettings",
    "Snapshots",
    "Source",
    "Sweep",
    "Template",
    "find_template",
    "routers",
    "snapshot_mb",
    "snapshot_mb_of",
]
