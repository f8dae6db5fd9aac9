"""What installations have left on the machine whose data folder is gone: nobody else looks after it any more.

Their sandboxes cannot be adopted, since journals and disks went with the folder, so `remove_vanished` ends them.
"""

from __future__ import annotations

from pathlib import Path

from wrenn import network
from wrenn.agent.doctor.leftovers import Leftover, list_everything, remove_thing
from wrenn.agent.layout import Layout
from wrenn.linux import cgroups


async def find_vanished() -> list[Leftover]:
    """Network blocks, namespaces, firewall tables, processes and cgroups of vanished installations, and empty cgroups."""
    found: list[Leftover] = []
    for block, data_dir in network.vanished_blocks().items():
        layout = Layout(data_dir, block)
        found += [Leftover(t.kind, t.name, str(data_dir)) for t in await list_everything(layout)]
        found.append(Leftover("block", str(block.index), str(data_dir)))
    found += [Leftover("empty cgroup", name) for name in _empty_groups()]
    return found


async def remove_vanished() -> None:
    """Remove what `find_vanished` lists. An installation that comes back meanwhile keeps its things."""
    for block, data_dir in network.vanished_blocks().items():
        await remove_installation(block, data_dir)
    for name in _empty_groups():
        cgroups.remove_if_empty(name)


async def remove_installation(block: network.Block, data_dir: Path) -> None:
    """End and remove everything of the block, if the installation in `data_dir`, which has it, is gone."""
    with network.reclaim_block(block) as vanished:
        if vanished:
            layout = Layout(data_dir, block)
            for thing in await list_everything(layout):
                await remove_thing(layout, thing)
            await network.remove_everything(block)
            cgroups.remove_if_empty(layout.cgroup_root)


def _empty_groups() -> list[str]:
    """Top groups of blocks that no installation has, with no process in them."""
    nowhere = Path("/nonexistent")
    names = [Layout(nowhere, block).cgroup_root for block in network.unclaimed_blocks()]
    return [name for name in names if cgroups.exists(name) and not cgroups.members(name)]
