"""Interface to root disks. The agent orders layers by id; only a driver knows their format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wrenn.storage.layers import LayerSeal


@dataclass(frozen=True, slots=True)
class DiskRef:
    """A root disk: a chain of layers on a base.

    Attributes:
        layers: ids, newest first. The first one is written, the others are frozen.
        base: key of the base whose disk lies under them.
    """

    layers: tuple[str, ...]
    base: str


class DiskChain(Protocol):
    """The layers of all root disks of a host. Methods that are not `async` block."""

    def list_ids(self) -> list[str]:
        """Return the ids of all layers, sorted."""
        ...

    async def create(self, layer_id: str, below: DiskRef, *, size_b: int, copy_of: str = "") -> None:
        """Create a layer, to be written by one VM.

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
        """Return the seal (size and digest) of a frozen layer and make its file read-only for everybody who does not have it open."""
        ...

    def check(self, expected: LayerSeal) -> None:
        """Compare a layer with its seal.

        Raises:
            DamagedSnapshot: the layer is missing or differs from its seal.
        """
        ...

    def flush(self, layer_ids: Iterable[str]) -> None:
        """Flush frozen layers to disk, so that they survive a power cut. Raises FileNotFoundError if one is missing."""
        ...

    def allocated_b(self, layer_id: str) -> int:
        """Return the bytes that a layer takes on the host's disk; 0 if it is missing."""
        ...

    def waits_for_space(self, layer_id: str) -> bool:
        """Return whether what a running VM wrote to the layer waits until the host's disk has space for it. Does not block."""
        ...

    def size_b(self, layer_id: str) -> int:
        """Return the disk size that a frozen layer was created for. Untrusted: a compromised VMM can write any value.

        Raises:
            FileNotFoundError: it is gone.
        """
        ...

    def image_size_b(self, base: str) -> int:
        """Return the default size of disks on this base."""
        ...

    async def export(self, layer_id: str, scratch: Path) -> Path:
        """Return a file from which `restore` makes the same frozen layer on another host. It may be made in `scratch`.

        Raises:
            DamagedSnapshot: the layer is missing.
        """
        ...

    async def restore(self, layer_id: str, file: Path) -> None:
        """Make a frozen layer of the file that `export` returned elsewhere; the file is used up. The caller compares it with its seal."""
        ...

    async def remove(self, layer_id: str) -> None:
        """Remove a layer. A missing one is ignored."""
        ...

    def move_out(self, layer_id: str, folder: Path) -> None:
        """Atomically move a layer into `folder` under its id; it then no longer exists as a layer."""
        ...
