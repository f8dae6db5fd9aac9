"""The end of an installation that a test had on the machine."""

from __future__ import annotations

from pathlib import Path

from wrenn.agent.layout import Layout
from wrenn.linux import cgroups
from wrenn.network import claim_block, release_block, remove_everything


async def remove_installation(folder: Path) -> None:
    """Remove the networks and the cgroup of the installation in `folder`, and give its block back. Its VMMs have ended."""
    block = claim_block(folder)
    await remove_everything(block)
    cgroups.remove_if_empty(Layout(folder, block).cgroup_root)
    release_block(folder)
