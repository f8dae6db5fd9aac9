"""Paths in the data folder and names of resources on the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn.agent.local_client import SOCKET
from wrenn.base.ids import SandboxId
from wrenn.linux.jail import ID_COUNT
from wrenn.network import Block
from wrenn.storage.folders import Folders

_FIRST_VMM_UID: Final = 1_900_000_000
"""Far above accounts, containers' subordinate ids and systemd's dynamic users."""
_SLOTS_PER_BLOCK: Final = 4096
_FIRST_IMAGE_ID: Final = 2_000_000_000
"""Above the ids of all VMMs."""
IMAGE_JOB_SLOTS: Final = (0, _SLOTS_PER_BLOCK - 1)
"""Slot numbers without a network, for the user ids of machines that flatten disks: one for each job at a time."""
IMPORT_SLOTS: Final = tuple(range(8))
"""Numbers for the user ids of programs that import container images: one for each import at a time."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths and resource names of one installation."""

    data_dir: Path
    block: Block

    @property
    def sandboxes(self) -> Path:
        """Parent of the folders of all sandboxes."""
        return self.data_dir / "sandboxes"

    @property
    def folders(self) -> Folders:
        """The folders that the agent shares with the driver."""
        return Folders(self.data_dir)

    @property
    def bases(self) -> Path:
        """Parent of the folders of all bases."""
        return self.folders.bases

    @property
    def snapshots(self) -> Path:
        """Parent of the folders of all snapshots."""
        return self.folders.snapshots

    @property
    def layers(self) -> Path:
        """Folder of the root disks' layers."""
        return self.folders.layers

    @property
    def images(self) -> Path:
        """Parent of the folders of images that builds and imports made."""
        return self.data_dir / "images"

    @property
    def pulled(self) -> Path:
        """Parent of the folders of container images that were pulled, to be used again."""
        return self.data_dir / "pulled"

    @property
    def secret(self) -> Path:
        """Key from which the guests' access tokens are derived; mode 600."""
        return self.data_dir / "agent.key"

    @property
    def outage(self) -> Path:
        """Record of an outage of the control plane, while there is one."""
        return self.data_dir / "control-outage.json"

    @property
    def metrics(self) -> Path:
        """Folder of samples that the control plane has not stored yet."""
        return self.data_dir / "metrics"

    @property
    def socket(self) -> Path:
        """Socket of the host API for programs on this machine."""
        return self.data_dir / SOCKET

    def sandbox(self, sandbox_id: SandboxId) -> Path:
        """Return the folder of one sandbox."""
        return self.sandboxes / str(sandbox_id)

    @property
    def cgroup_root(self) -> str:
        """Parent of all cgroups of this installation."""
        return f"wrenn-{self.block.index}"

    def cgroup(self, name: str) -> str:
        """Return the cgroup of a sandbox or base."""
        return f"{self.cgroup_root}/{name}"

    def vmm_uid(self, slot_index: int) -> int:
        """Return the user id for the VMM in this slot, unique among all VMMs on the machine."""
        assert 0 <= slot_index < _SLOTS_PER_BLOCK, "user ids of a block do not overlap with the next one's"
        return _FIRST_VMM_UID + self.block.index * _SLOTS_PER_BLOCK + slot_index

    def image_ids(self, import_slot: int) -> int:
        """Return the first of the user and group ids that a container image is unpacked with, for one of `IMPORT_SLOTS`."""
        number = self.block.index * len(IMPORT_SLOTS) + IMPORT_SLOTS.index(import_slot)
        return _FIRST_IMAGE_ID + number * ID_COUNT
