"""Sandboxes: their endpoints, their life in the database, and the loops that make hosts agree with it."""

from wrenn.control.sandboxes import command_routes, file_routes, routes
from wrenn.control.sandboxes.changes import Changes
from wrenn.control.sandboxes.commands import Commands
from wrenn.control.sandboxes.comparison import Comparison
from wrenn.control.sandboxes.files import Files
from wrenn.control.sandboxes.reconciler import Reconciler, ReconcilerSettings
from wrenn.control.sandboxes.service import Sandboxes, SandboxLimits

routers = (routes.router, command_routes.router, file_routes.router)

__all__ = [
    "Changes",
    "Commands",
    "Comparison",
    "Files",
    "Reconciler",
    "ReconcilerSettings",
    "SandboxLimits",
    "Sandboxes",
    "routers",
]
