"""Interface to VM memory: saving a suspended VM, and the images that VMs are restored from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wrenn.storage.snapshots import MemorySeal, Snapshot
from wrenn.vm.machine import Machine

OnPartSaved = Callable[[str], Awaitable[None]]
"""Awaited with `memory` and `state` after that part is written, so that tests can inject faults."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """Names a memory image: a base, or with `snapshot` a snapshot on top of the images below it."""

    base: str
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class SavedMemory:
    """The result of saving a VM's memory.

    Attributes:
        parent: snapshot whose image the saved memory lies on; empty: the base's.
        seal: sizes and digests of the files, for the snapshot's manifest.
        figures: for the log.
    """

    parent: str
    seal: MemorySeal
    figures: Mapping[str, int] = field(default_factory=dict[str, int])


class MemoryImages(Protocol):
    """The memory images of a host. A memory image never changes. Methods that are not `async` block."""

    async def load(self, image: ImageRef) -> None:
        """Load the image, so that VMs can be started from it at once.

        Raises:
            DamagedBase, DamagedSnapshot: it is not what was saved.
        """
        ...

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Write memory and device state of the suspended `machine`, which runs on `image`, to a snapshot's folder.

        A driver may store them over another image than `image`; then `SavedMemory.parent` says which.

        Raises:
            StorageFull: no room. AgentFailure: the machine ended. DamagedSnapshot: it saved what cannot be a state.
        """
        ...

    def check(self, snapshot: Snapshot) -> None:
        """Compare the sizes and small files with the manifest. Large files are verified when they are used.

        Raises:
            DamagedSnapshot: they are not what was saved.
        """
        ...

    def verify_memory(self, snapshot: Snapshot) -> None:
        """Verify the digests of all of the memory. Raises as `check`."""
        ...

    def forget(self, image: ImageRef) -> None:
        """Unload an image that may be removed or replaced; VMs on it keep running."""
        ...

    async def close(self) -> None:
        """Unload all images."""
        ...
