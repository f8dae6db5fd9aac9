"""Imports one container image, as an agent does: a program that a test kills. Arguments: data folder, reference, fault points."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from wrenn.agent.confinement import CgroupConfiner
from wrenn.agent.images import ContainerSource, Progress
from wrenn.agent.images.container import ImportContainer
from wrenn.agent.images.pulled_images import PulledImages
from wrenn.agent.layout import IMPORT_SLOTS, Layout
from wrenn.base.faults import arm_faults
from wrenn.base.ids import ImageId
from wrenn.network import ReachableNetworks, Slots, claim_block
from wrenn.storage.images import ImageFolder


async def main(data_dir: Path, reference: str) -> None:
    layout = Layout(data_dir, claim_block(data_dir))
    reach = ReachableNetworks.parse(name_servers="", allowed=reference.partition(":")[0])
    slots = Slots(layout.block, vmm_uid=0, vmm_gid=0, ready_target=0, reach=reach)
    await slots.start({})
    folder, image_id = ImageFolder(layout.images), ImageId.new()
    containers = ImportContainer(
        layout, slots, CgroupConfiner(layout), "", 1, PulledImages(layout.pulled, limit_b=1 << 30)
    )
    source = ContainerSource(reference, 64, insecure_registry=True)
    draft = await folder.new_draft(image_id)
    facts = await containers.run(source, image_id, draft, Progress(), job_slot=IMPORT_SLOTS[0])
    await folder.publish(draft, image_id, facts)


if __name__ == "__main__":
    arm_faults(sys.argv[3])
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
