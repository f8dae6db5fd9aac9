"""Everything on the machine that is named after this installation and owned by nobody."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn import network
from wrenn.agent.confinement import release_cgroup
from wrenn.agent.doctor.owners import Owners
from wrenn.agent.layout import Layout
from wrenn.linux import cgroups
from wrenn.linux.files import remove_tree

_DRAFTS: Final = ".draft-*"
_BASE_PREFIX: Final = "base-"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that nobody owns."""

    kind: str
    name: str
    detail: str = ""


async def find_leftovers(layout: Layout, owners: Owners) -> list[Leftover]:
    """List them; empty when that cannot be known, which `owners.check` then says."""
    if not owners.complete:
        return []
    return [
        *(Leftover("process", str(pid), "runs as a VMM's user") for pid in _stray_processes(layout, owners)),
        *(Leftover("cgroup", name) for name in _stray_cgroups(layout, owners)),
        *(Leftover("network", name) for name in await network.leftovers(layout.block, owners.slots)),
        *(Leftover("files", str(path)) for path in _stray_folders(layout, owners)),
    ]


async def remove_leftovers(layout: Layout, owners: Owners) -> None:
    """Remove what `find_leftovers` lists."""
    if not owners.complete:
        return
    for pid in _stray_processes(layout, owners):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in _stray_cgroups(layout, owners):
        await release_cgroup(layout, name)
    await network.remove_leftovers(layout.block, owners.slots)
    for path in _stray_folders(layout, owners):
        remove_tree(path)


def _owned_group(name: str, owners: Owners) -> bool:
    return name in owners.sandboxes or (owners.agent_runs and name.startswith(_BASE_PREFIX))


def _stray_cgroups(layout: Layout, owners: Owners) -> list[str]:
    return [name for name in cgroups.children(layout.cgroup_root) if not _owned_group(name, owners)]


def _stray_processes(layout: Layout, owners: Owners) -> list[int]:
    """VMMs are known by their user ids, which nothing else on the machine has."""
    owned = {pid for name in cgroups.children(layout.cgroup_root) if _owned_group(name, owners) for pid in
             cgroups.members(layout.cgroup(name))}  # fmt: skip
    first = layout.vmm_uid(0)
    uids = range(first, first + network.SLOT_LIMIT + 1)
    stray: list[int] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile
            if entry.name.isdigit() and entry.stat().st_uid in uids and int(entry.name) not in owned:
                stray.append(int(entry.name))
    return sorted(stray)


def _stray_folders(layout: Layout, owners: Owners) -> list[Path]:
    sandboxes = sorted(layout.sandboxes.iterdir()) if layout.sandboxes.is_dir() else []
    drafts = sorted(layout.bases.glob(_DRAFTS)) if layout.bases.is_dir() else []
    return [
        *(path for path in sandboxes if path.name not in owners.sandboxes),
        *(path for path in drafts if not owners.agent_runs),
    ]
