"""Leftovers of vanished installations, whose data folder is gone and which therefore have no doctor of their own.

Their sandboxes cannot be adopted, since journals and disks went with the folder, so `remove_vanished` ends them.
"""

from __future__ import annotations

from pathlib import Path

from wrenn import network
from wrenn.agent.doctor.leftovers import Leftover, list_everything, remove_leftover
from wrenn.agent.layout import Layout
from wrenn.linux import cgroups


async def find_vanished() -> list[Leftover]:
    """Return resources of vanished installations (network blocks, processes, cgroups, …) and empty cgroups."""
    found: list[Leftover] = []
    for block, data_dir in network.vanished_blocks().items():
        layout = Layout(data_dir, block)
        found += [Leftover(t.kind, t.name, str(data_dir)) for t in await list_everything(layout)]
        found.append(Leftover("block", str(block.index), str(data_dir)))
    found += [Leftover("empty cgroup", name) for name in _empty_groups()]
    return found


async def remove_vanished() -> None:
    """Remove what `find_vanished` returned. An installation whose data folder has reappeared is left alone."""
    for block, data_dir in network.vanished_blocks().items():
        await remove_installation(block, data_dir)
    for name in _empty_groups():
        cgroups.remove_if_empty(name)


async def remove_installation(block: network.Block, data_dir: Path) -> None:
    """Remove all resources of the network block if the installation in `data_dir` that claimed it is gone."""
    with network.reclaim_block(block) as vanished:
        if vanished:
            layout = Layout(data_dir, block)
            for leftover in await list_everything(layout):
                await remove_leftover(layout, leftover)
            await network.remove_everything(block)
            cgroups.remove_if_empty(layout.cgroup_root)


def _empty_groups() -> list[str]:
    """Return top-level cgroups without processes of network blocks that no installation claims."""
    nowhere = Path("/nonexistent")
    names = [Layout(nowhere, block).cgroup_root for block in network.unclaimed_blocks()]
    return [name for name in names if cgroups.exists(name) and not cgroups.members(name)]
