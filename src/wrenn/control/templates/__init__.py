"""Templates: snapshots that teams keep of sandboxes, their endpoints, and the images of the platform."""

from wrenn.control.templates import routes
from wrenn.control.templates.keeper import Keeper, KeeperSettings
from wrenn.control.templates.reconciler import Sweep
from wrenn.control.templates.records import Source, Template
from wrenn.control.templates.service import BAD_NAME, Snapshots
from wrenn.control.templates.store import find as find_template
from wrenn.control.templates.store import snapshot_mb, snapshot_mb_of

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
