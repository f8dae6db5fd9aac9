"""The root disks of a host. The agent knows layers by id and decides their order; only a driver knows what a layer is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.storage.layers import LayerSeal


@dataclass(frozen=True, slots=True)
class DiskRef:
    """A root disk.

    Attributes:
        layers: ids, newest first. The first one is written, the others are frozen.
        base: key of the base whose disk lies under them.
    """

    layers: tuple[str, ...]
    base: str


class DiskChain(Protocol):
    """The layers of all root disks of a host. What is not `async` blocks; a layer that is read is frozen."""

    def list_ids(self) -> list[str]:
        """Ids of all layers, in ascending order."""
        ...

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Make a new layer, to be written by one machine.

        Args:
            layer_id: its id.
            below: what it lies on: the frozen layers and the base.
            size_b: size of the disk, at least that of everything below.
            copy_of: a frozen layer of at least this size that it begins as a copy of; without one it changes nothing yet.

        Raises:
            StorageFull: no room. DamagedSnapshot: `copy_of` is smaller.
        """
        ...

    def seal(self, layer_id: str) -> LayerSeal:
        """What the frozen layer is now. Nobody can write it from here on, except who has it open."""
        ...

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal.

        Raises:
            DamagedSnapshot: missing, or not what was sealed.
        """
        ...

    def flush(self, layer_ids: Iterable[str]) -> None:
        """Make frozen layers survive a power cut. Raises FileNotFoundError: one is gone."""
        ...

    def allocated_b(self, layer_id: str) -> int:
        """Bytes that a layer takes on the host's disk; 0 when it is gone."""
        ...

    def size_b(self, layer_id: str) -> int:
        """Size of the disk that the frozen layer was made for; a machine that was taken over may have written another one.

        Raises:
            FileNotFoundError: it is gone.
        """
        ...

    def image_size_b(self, base: str) -> int:
        """Size of the disks over this base that were not given a larger one."""
        ...

    async def remove(self, layer_id: str) -> None:
        """Remove a layer. A missing one is fine."""
        ...

    def move_out(self, layer_id: str, folder: Path) -> None:
        """Move a layer into `folder` under its id, in one step: it is no layer any more. The caller removes the folder."""
        ...
