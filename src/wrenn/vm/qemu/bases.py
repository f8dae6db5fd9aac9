"""The files of a base for QEMU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wrenn.vm.base_files import Base, StoredBases


@dataclass(frozen=True, slots=True)
class QemuBase(Base):
    """Paths of the files of one base, with two overlays: what the boot wrote, and an empty one."""

    DISK_FILES: ClassVar[tuple[str, ...]] = ("disk.qcow2", "empty.qcow2")

    @property
    def disk(self) -> Path:
        """The frozen overlay."""
        return self.directory / "disk.qcow2"

    @property
    def empty_disk(self) -> Path:
        """An overlay without content, to be copied."""
        return self.directory / "empty.qcow2"


class QemuBases(StoredBases[QemuBase]):
    """The bases of a host as files for QEMU."""

    def __init__(self, root: Path) -> None:
        super().__init__(QemuBase, root)
