"""Images: the root file systems that templates are made of, in the store and on hosts."""

from wrenn.control.images.collection_store import is_overdue as is_collection_overdue
from wrenn.control.images.host_access import URL_LIFE_S, HostImages
from wrenn.control.images.records import ImageKind, ImageStatus, owner_name
from wrenn.control.images.routes import router, store_router
from wrenn.control.images.served_objects import ServedObjects
from wrenn.control.images.service import Images
from wrenn.control.images.store import retire as retire_images
from wrenn.control.images.store import retire_all as retire_images_of_team
from wrenn.control.images.sweep import ImageSweep
from wrenn.control.images.tables import images

__all__ = [
    "URL_LIFE_S",
    "HostImages",
    "ImageKind",
    "ImageStatus",
    "ImageSweep",
    "Images",
    "ServedObjects",
    "images",
    "is_collection_overdue",
    "owner_name",
    "retire_images",
    "retire_images_of_team",
    "router",
    "store_router",
]
