"""Images on a host: prepared from a paused sandbox's disk, a container image, or the store (docs/design/templates.md)."""

from wrenn.agent.images.disk_of import IMAGE_PREFIX, FlattenDisk
from wrenn.agent.images.job import (
    ContainerSource,
    DiskSource,
    Failure,
    ImageStatus,
    Phase,
    Progress,
    Source,
    StoredSource,
)
from wrenn.agent.images.preparation import Preparation, Transfer
from wrenn.agent.images.registry import Cache, Images

__all__ = [
    "IMAGE_PREFIX",
    "Cache",
    "ContainerSource",
    "DiskSource",
    "Failure",
    "FlattenDisk",
    "ImageStatus",
    "Images",
    "Phase",
    "Preparation",
    "Progress",
    "Source",
    "StoredSource",
    "Transfer",
]
