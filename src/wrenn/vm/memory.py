"""The memory of machines: what is saved of a frozen one, and what machines are restored from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wrenn.storage.snapshots import MemorySeal, Snapshot
from wrenn.vm.machine import Machine

OnPartSaved = Callable[[str], Awaitable[None]]
"""Awaited with `memory` and `state` when that was written: tests inject faults there."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A memory image: a base, or with `snapshot` that snapshot over the images below it."""

    base: str
    snapshot: str = ""


@dataclass(frozen=True, slots=True)
class SavedMemory:
    """What was saved of a machine.

    Attributes:
        parent: snapshot whose image the saved memory lies on; empty: the base's.
        seal: what was written, to be kept in the snapshot's manifest.
        figures: for the log.
    """

    parent: str
    seal: MemorySeal
    figures: Mapping[str, int] = field(default_factory=dict[str, int])


class MemoryImages(Protocol):
    """The memory of all machines of a host. A memory image is never changed. What is not `async` blocks."""

    async def load(self, image: ImageRef) -> None:
        """Have the image ready, so that machines on it start at once.

        Raises:
            DamagedBase, DamagedSnapshot: it is not what was saved.
        """
        ...

    async def save(
        self, machine: Machine, image: ImageRef, directory: Path, *, on_part_saved: OnPartSaved
    ) -> SavedMemory:
        """Write memory and device state of the frozen `machine`, which runs on `image`, into the folder of a snapshot.

        A driver may store them over another image than `image`; then `SavedMemory.parent` says which.

        Raises:
            StorageFull: no room. AgentFailure: the machine ended. DamagedSnapshot: it saved what cannot be a state.
        """
        ...

    def check(self, snapshot: Snapshot) -> None:
        """Compare the files of memory and state with the manifest. The content of large files is checked when it is used.

        Raises:
            DamagedSnapshot: they are not what was saved.
        """
        ...

    def verify_memory(self, snapshot: Snapshot) -> None:
        """Compare all of the memory with its digests. Raises as `check`."""
        ...

    def forget(self, image: ImageRef) -> None:
        """Let go of an image that may be removed or replaced; machines on it go on."""
        ...

    async def close(self) -> None:
        """Let go of everything that was loaded."""
        ...
