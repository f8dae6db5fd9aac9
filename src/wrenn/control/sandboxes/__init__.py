"""Sandboxes: their endpoints, their life in the database, and the loops that make hosts agree with it."""

from wrenn.control.sandboxes import command_routes, file_routes, lifecycle_routes, routes, stream_routes
from wrenn.control.sandboxes.changes import Changes
from wrenn.control.sandboxes.commands import Commands
from wrenn.control.sandboxes.comparison import Comparison, ComparisonSettings
from wrenn.control.sandboxes.create import Creation, SandboxLimits
from wrenn.control.sandboxes.disks import Disks
from wrenn.control.sandboxes.files import Files
from wrenn.control.sandboxes.fork import Forks
from wrenn.control.sandboxes.lifecycle import Lifecycle
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.network import NetworkRules, Networks
from wrenn.control.sandboxes.outcomes import Patience
from wrenn.control.sandboxes.pause_all import pause_all
from wrenn.control.sandboxes.reconciler import Reconciler
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.room import Room
from wrenn.control.sandboxes.steps import ReconcilerSettings
from wrenn.control.sandboxes.store import find_place
from wrenn.control.sandboxes.streams import Streams
from wrenn.control.sandboxes.targets import Targets

routers = (
    routes.router,
    lifecycle_routes.router,
    command_routes.router,
    file_routes.router,
    stream_routes.router,
)

__all__ = [
    "Changes",
    "Commands",
    "Comparison",
    "ComparisonSettings",
    "Creation",
    "Disks",
    "Files",
    "Forks",
    "Lifecycle",
    "Lookup",
    "NetworkRules",
    "Networks",
    "Patience",
    "Reconciler",
    "ReconcilerSettings",
    "Room",
    "Sandbox",
    "SandboxLimits",
    "Streams",
    "Targets",
    "find_place",
    "pause_all",
    "routers",
]
