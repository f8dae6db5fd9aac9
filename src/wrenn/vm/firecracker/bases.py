"""The files of a base for Firecracker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wrenn.vm.base_files import Base, StoredBases

_WRITTEN = "disk.cow"


@dataclass(frozen=True, slots=True)
class FirecrackerBase(Base):
    """Paths of the files of one base, with the copy-on-write file of what the boot wrote."""

    DISK_FILES: ClassVar[tuple[str, ...]] = (_WRITTEN,)
    SPARSE_FILES: ClassVar[tuple[str, ...]] = ("memory", _WRITTEN)
    MEMORY_MODE: ClassVar[int] = 0o444
    """Each VMM maps it, as a user of its own. Its folder is root's; what a VMM sees is a hard link in its jail."""

    @property
    def written(self) -> Path:
        """What the boot wrote over the image."""
        return self.directory / _WRITTEN


class FirecrackerBases(StoredBases[FirecrackerBase]):
    """The bases of a host. Implements `wrenn.vm.firecracker.block_disks.BaseFiles` too."""

    def __init__(self, root: Path) -> None:
        super().__init__(FirecrackerBase, root)

    def image(self, key: str) -> Path:
        """Return the path of the template's image."""
        return self.of(key).image

    def written(self, key: str) -> Path:
        """Return the path of what the boot wrote over it."""
        return self.of(key).written
