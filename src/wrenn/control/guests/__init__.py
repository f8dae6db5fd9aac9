"""Programs, terminals and files inside a running sandbox: endpoints and their calls to the host."""

from wrenn.control.guests import (
    command_routes,
    download_routes,
    download_store,
    file_routes,
    inspection_routes,
    stream_routes,
)
from wrenn.control.guests.commands import Commands
from wrenn.control.guests.download_routes import link_router
from wrenn.control.guests.downloads import Downloads
from wrenn.control.guests.files import Files
from wrenn.control.guests.inspection import Inspection
from wrenn.control.guests.streams import Streams
from wrenn.control.guests.upload_form import UploadForm

routers = (
    command_routes.router,
    inspection_routes.router,
    download_routes.router,
    file_routes.router,
    stream_routes.router,
)

__all__ = [
    "Commands",
    "Downloads",
    "Files",
    "Inspection",
    "Streams",
    "UploadForm",
    "download_store",
    "link_router",
    "routers",
]
