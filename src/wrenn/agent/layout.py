"""Where the agent keeps things in the data folder, and what it calls things on the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.base.ids import SandboxId
from wrenn.network import Block
from wrenn.storage.folders import Folders

_FIRST_VMM_UID: Final = 1_900_000_000
"""Far above accounts, containers' subordinate ids and systemd's dynamic users."""
_SLOTS_PER_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths and names of one installation."""

    data_dir: Path
    block: Block

    @property
    def sandboxes(self) -> Path:
        """One folder a sandbox."""
        return self.data_dir / "sandboxes"

    @property
    def folders(self) -> Folders:
        """Those that it shares with the driver."""
        return Folders(self.data_dir)

    @property
    def bases(self) -> Path:
        """One folder a base."""
        return self.folders.bases

    @property
    def snapshots(self) -> Path:
        """One folder a snapshot."""
        return self.folders.snapshots

    @property
    def layers(self) -> Path:
        """The layers of root disks, written or frozen."""
        return self.folders.layers

    @property
    def secret(self) -> Path:
        """Key from which the guests' access tokens are derived; mode 600."""
        return self.data_dir / "agent.key"

    @property
    def lock(self) -> Path:
        """Held by the one agent of this installation."""
        return self.data_dir / "agent.lock"

    @property
    def pki(self) -> Path:
        """Certificates."""
        return self.data_dir / "pki"

    def sandbox(self, sandbox_id: SandboxId) -> Path:
        """Folder of one sandbox."""
        return self.sandboxes / str(sandbox_id)

    @property
    def cgroup_root(self) -> str:
        """Parent of all cgroups of this installation."""
        return f"wrenn-{self.block.index}"

    def cgroup(self, name: str) -> str:
        """Cgroup of a sandbox or base."""
        return f"{self.cgroup_root}/{name}"

    def vmm_uid(self, slot_index: int) -> int:
        """The user that the VMM in this slot runs as: no two VMMs on the machine share one."""
        return _FIRST_VMM_UID + self.block.index * _SLOTS_PER_BLOCK + slot_index
