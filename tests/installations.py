"""The end of an installation that a test had on the machine."""

from __future__ import annotations

from pathlib import Path

from wrenn.agent.doctor.leftovers import list_everything, remove_leftover
from wrenn.agent.layout import Layout
from wrenn.linux import cgroups
from wrenn.network import claim_block, release_block, remove_everything


async def remove_installation(folder: Path) -> None:
    """Remove the networks and the cgroup of the installation in `folder`, and give its block back.

    A test that failed leaves VMMs: they are killed, or the next installation with this block would have them.
    """
    block = claim_block(folder)
    layout = Layout(folder, block)
    for leftover in await list_everything(layout):
        if leftover.kind in ("process", "cgroup"):
            await remove_leftover(layout, leftover)
    await remove_everything(block)
    cgroups.remove_if_empty(layout.cgroup_root)
    release_block(folder)
