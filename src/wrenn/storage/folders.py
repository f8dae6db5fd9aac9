"""The folders of an installation that hold bases, snapshots and layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders that the agent and a VM driver share."""

    data_dir: Path

    @property
    def bases(self) -> Path:
        """One folder per base."""
        return self.data_dir / "bases"

    @property
    def snapshots(self) -> Path:
        """One folder per snapshot."""
        return self.data_dir / "snapshots"

    @property
    def memory_images(self) -> Path:
        """Memory images of snapshots as whole files, for VMMs that map one. They are made when they are needed."""
        return self.data_dir / "memory-images"

    @property
    def layers(self) -> Path:
        """The layers of root disks, written or frozen."""
        return self.data_dir / "layers"
