"""Builds: templates made from recipes and Dockerfiles."""

from wrenn.control.builds import routes
from wrenn.control.builds.abandoned_archives import AbandonedArchives
from wrenn.control.builds.bases import BuildBases
from wrenn.control.builds.cleanup import BuildCleanup
from wrenn.control.builds.layers import LayerCache
from wrenn.control.builds.records import Build, BuildStatus, LogEntry, LogKind
from wrenn.control.builds.results import BuildResults
from wrenn.control.builds.runner import BuildRunner
from wrenn.control.builds.scratch import ScratchSpace
from wrenn.control.builds.service import Builds
from wrenn.control.builds.store import is_running
from wrenn.control.builds.types import CreateBuild
from wrenn.control.builds.uploads import ArchiveUploads, receive_archive
from wrenn.control.builds.worker import BuildWorker

routers = (routes.router,)
admin_routers = (routes.admin_router,)

__all__ = [
    "AbandonedArchives",
    "ArchiveUploads",
    "Build",
    "BuildBases",
    "BuildCleanup",
    "BuildResults",
    "BuildRunner",
    "BuildStatus",
    "BuildWorker",
    "Builds",
    "CreateBuild",
    "LayerCache",
    "LogEntry",
    "LogKind",
    "ScratchSpace",
    "admin_routers",
    "is_running",
    "receive_archive",
    "routers",
]
