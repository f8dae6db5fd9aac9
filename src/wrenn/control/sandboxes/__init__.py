"""Sandboxes: their endpoints and rows (here), what callers do to them (`operations`), and the loops that carry it out (`reconcile`)."""

from wrenn.control.sandboxes import operation_routes, routes
from wrenn.control.sandboxes.changes import ChangeNotifier
from wrenn.control.sandboxes.lookup import LocatedSandbox, Lookup, SandboxOfBuild, snapshot_source_of
from wrenn.control.sandboxes.network_policy import NetworkRules
from wrenn.control.sandboxes.operations.capacity import Capacity
from wrenn.control.sandboxes.operations.change_description import DescriptionChanges
from wrenn.control.sandboxes.operations.change_time_limits import TimeLimitChanges
from wrenn.control.sandboxes.operations.commit_move import CommittingMoves
from wrenn.control.sandboxes.operations.create import Creations, SandboxSizeLimits
from wrenn.control.sandboxes.operations.delete import Deletions
from wrenn.control.sandboxes.operations.disk import Disks
from wrenn.control.sandboxes.operations.drain_host import DrainProgress, HostDrains
from wrenn.control.sandboxes.operations.fork import Forks
from wrenn.control.sandboxes.operations.internal import InternalSandboxes
from wrenn.control.sandboxes.operations.move import Moves
from wrenn.control.sandboxes.operations.network import Networks
from wrenn.control.sandboxes.operations.pause import Pauses
from wrenn.control.sandboxes.operations.pause_all import pause_all
from wrenn.control.sandboxes.operations.place_again import PlacingAgain
from wrenn.control.sandboxes.operations.recover import Recoveries
from wrenn.control.sandboxes.operations.resume import Resumes
from wrenn.control.sandboxes.operations.running_sandbox import RunningSandbox, RunningSandboxes
from wrenn.control.sandboxes.operations.waiting import WaitLimits
from wrenn.control.sandboxes.reconcile.back_off import BackOff
from wrenn.control.sandboxes.reconcile.comparison import Comparison, ComparisonSettings
from wrenn.control.sandboxes.reconcile.move import MoveStep
from wrenn.control.sandboxes.reconcile.pause_uploads import PauseUploading, PauseUploads
from wrenn.control.sandboxes.reconcile.reconciler import Reconciler
from wrenn.control.sandboxes.reconcile.steps import ReconcilerSettings
from wrenn.control.sandboxes.reconcile.store_state import StoreState
from wrenn.control.sandboxes.records import CommandDefaults, Ingress, Sandbox
from wrenn.control.sandboxes.selection import SandboxFilter
from wrenn.control.sandboxes.state import ENDED, State
from wrenn.control.sandboxes.store import (
    count_by_status,
    find_location,
    images_in_use,
    ingress_of,
    is_live,
    newest_running,
    running_of_team,
)
from wrenn.control.sandboxes.tables import sandboxes
from wrenn.control.sandboxes.types import FORK_LIMIT, CreateSandbox, Envs, GuestText, SetNetwork, SetTimeout

routers = (routes.router, operation_routes.router)

__all__ = [
    "ENDED",
    "FORK_LIMIT",
    "BackOff",
    "Capacity",
    "ChangeNotifier",
    "CommandDefaults",
    "CommittingMoves",
    "Comparison",
    "ComparisonSettings",
    "CreateSandbox",
    "Creations",
    "Deletions",
    "DescriptionChanges",
    "Disks",
    "DrainProgress",
    "Envs",
    "Forks",
    "GuestText",
    "HostDrains",
    "Ingress",
    "InternalSandboxes",
    "LocatedSandbox",
    "Lookup",
    "MoveStep",
    "Moves",
    "NetworkRules",
    "Networks",
    "PauseUploading",
    "PauseUploads",
    "Pauses",
    "PlacingAgain",
    "Reconciler",
    "ReconcilerSettings",
    "Recoveries",
    "Resumes",
    "RunningSandbox",
    "RunningSandboxes",
    "Sandbox",
    "SandboxFilter",
    "SandboxOfBuild",
    "SandboxSizeLimits",
    "SetNetwork",
    "SetTimeout",
    "State",
    "StoreState",
    "TimeLimitChanges",
    "WaitLimits",
    "count_by_status",
    "find_location",
    "images_in_use",
    "ingress_of",
    "is_live",
    "newest_running",
    "pause_all",
    "routers",
    "running_of_team",
    "sandboxes",
    "snapshot_source_of",
]
