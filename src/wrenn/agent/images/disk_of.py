"""Makes an image of the root disk of a paused sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import Confiner
from wrenn.agent.images.job import DiskSource, Phase, Progress
from wrenn.agent.sandboxes import Sandboxes
from wrenn.base.errors import StorageFull
from wrenn.base.faults import fault_point
from wrenn.base.ids import ImageId
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.linux.disk_space import free_b
from wrenn.storage.images import ROOTFS, ImageFacts
from wrenn.vm import Driver, FlattenRequest, Shape

_SHAPE: Final = Shape(vcpus=1, memory_mb=128)
"""What the program that reads the disk may take."""
_FILE_OVERHEAD_B: Final = 64 * MIB
IMAGE_PREFIX: Final = "image-"
"""Begins the names of limits (cgroups) of programs that prepare images."""


@dataclass(frozen=True, slots=True)
class FlattenDisk:
    """Makes images of disks."""

    sandboxes: Sandboxes
    driver: Driver
    confiner: Confiner
    reserve_b: int

    async def run(
        self, source: DiskSource, image_id: ImageId, draft: Path, progress: Progress, *, job_slot: int
    ) -> ImageFacts:
        """Write the image into the draft. Afterwards none of its processes is left.

        Raises:
            NotFound, InvalidState: there is no such sandbox, or it is not paused. DamagedSnapshot: its disk cannot be read.
            StorageFull: no room.
        """
        progress.begin(Phase.FLATTEN)
        name = f"{IMAGE_PREFIX}{image_id}"

        def report(done_b: int, total_b: int) -> None:
            # It ends here before the sandboxes of the host would be suspended.
            if free_b(draft) < self.reserve_b:
                raise StorageFull("The disk of the host is full: the image could not be written.")
            progress.report(done_b, total_b)

        async with Undo() as undo, self.sandboxes.paused_disk(source.sandbox_id) as (disk, size_b):
            undo.push("remove cgroup", partial(self.confiner.release, name))
            confinement = self.confiner.confine(name, job_slot, _SHAPE, file_size_b=size_b + _FILE_OVERHEAD_B)
            await fault_point("agent.image.before_flatten")
            await self.driver.flatten(FlattenRequest(disk, size_b, draft / ROOTFS, confinement, report))
            await fault_point("agent.image.after_flatten")
        return ImageFacts.new()
