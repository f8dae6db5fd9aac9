"""Finds and removes leftovers: resources named after this installation that nothing owns."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wrenn import network
from wrenn.agent.confinement import CgroupConfiner
from wrenn.agent.doctor.owners import Owners
from wrenn.agent.images import IMAGE_PREFIX
from wrenn.agent.layout import IMAGE_JOB_SLOTS, IMPORT_SLOTS, Layout
from wrenn.linux import cgroups
from wrenn.linux.jail import ID_COUNT
from wrenn.linux.trees import remove_any_tree
from wrenn.storage import snapshots
from wrenn.storage.images import ImageFolder, abandoned_scratch, remove_abandoned_scratch
from wrenn.storage.layers import layer_files
from wrenn.vm.firecracker.disks import detach_disk, list_attached

_DRAFTS: Final = ".draft-*"
_DRAFT: Final = "draft"
_IMAGE_BUILD: Final = "image build"
_DISK: Final = "disk"
_BY_AGENT: Final = ("base-", IMAGE_PREFIX, _DRAFT)
_COLLECTION_S: Final = 1.0
"""Longer than the agent's collector waits."""

FindOwners = Callable[[], Awaitable[Owners]]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One resource without an owner.

    Attributes:
        owner: the sandbox, base, slot, snapshot or layer that it is named after.
    """

    kind: str
    name: str
    owner: str = ""


async def find_leftovers(layout: Layout, find_owners: FindOwners) -> tuple[list[Leftover], Owners]:
    """Return all leftovers and the owners of the rest; empty if owners cannot be determined (`owners.check` then says why).

    The machine is looked at before and after the owners are asked: what is new after has an owner that was not asked,
    what is gone after is no leftover.
    """
    found, owners = await _look(layout, find_owners)
    if found and owners.agent_runs:
        # Its collector may be about to remove them.
        await asyncio.sleep(_COLLECTION_S)
        again, owners = await _look(layout, find_owners)
        found = [leftover for leftover in found if leftover in again]
    return found, owners


async def _look(layout: Layout, find_owners: FindOwners) -> tuple[list[Leftover], Owners]:
    before = await list_everything(layout)
    owners = await find_owners()
    if not owners.complete:
        return [], owners
    after = set(await list_everything(layout))
    return [leftover for leftover in before if leftover in after and not _is_owned(leftover, owners)], owners


async def remove_leftovers(layout: Layout, find_owners: FindOwners) -> None:
    """Remove the leftovers that `find_leftovers` returned."""
    found, owners = await find_leftovers(layout, find_owners)
    for leftover in found:
        await remove_leftover(layout, leftover)
    strays = {leftover.owner for leftover in found if leftover.kind == "network"}
    if strays:
        names = [leftover.name for leftover in await _networks(layout) if leftover.owner not in strays]
        held = {slot for name in names if (slot := layout.block.slot_of(name)) is not None}
        await network.remove_leftovers(layout.block, held | owners.slots)
    if not owners.agent_runs:
        # An agent makes it again with its first sandbox.
        cgroups.remove_if_empty(layout.cgroup_root)


async def remove_leftover(layout: Layout, leftover: Leftover) -> None:
    """Remove one leftover. Networks are removed per slot by `remove_leftovers`."""
    if leftover.kind == "process":
        with suppress(ProcessLookupError):
            os.kill(int(leftover.name), signal.SIGKILL)
    elif leftover.kind == "cgroup":
        await CgroupConfiner(layout).release(leftover.name)
    elif leftover.kind == _DISK:
        await detach_disk(layout.cgroup_root, leftover.name)
    elif leftover.kind == _IMAGE_BUILD:
        await remove_abandoned_scratch(layout.data_dir)
    elif leftover.kind in ("files", "snapshot"):
        await remove_any_tree(Path(leftover.name))
    elif leftover.kind == "layer":
        Path(leftover.name).unlink(missing_ok=True)


def _is_owned(leftover: Leftover, owners: Owners) -> bool:
    if leftover.kind == "network":
        return bool(owners.slots) if not leftover.owner else int(leftover.owner) in owners.slots
    if leftover.kind == "snapshot":
        return leftover.owner in owners.stored.snapshots
    if leftover.kind == "layer":
        # What a manifest that cannot be read needs is not known.
        return leftover.owner in owners.stored.layers or bool(owners.stored.unreadable)
    by_agent = owners.agent_runs and leftover.owner.startswith(_BY_AGENT)
    return by_agent or leftover.owner in owners.sandboxes


async def list_everything(layout: Layout) -> list[Leftover]:
    """Return all resources named after this installation, whether owned or not."""
    groups = cgroups.children(layout.cgroup_root)
    return [
        *_processes(layout, groups),
        # Before cgroups: a killed VMM whose writes wait for disk space ends when its disk is detached.
        *(Leftover(_DISK, name, name) for name in list_attached(layout.cgroup_root)),
        *(Leftover("cgroup", name, name) for name in groups),
        *await _networks(layout),
        *_folders(layout),
    ]


async def _networks(layout: Layout) -> list[Leftover]:
    names = await network.leftovers(layout.block, ())
    return [Leftover("network", name, str(layout.block.slot_of(name) or "")) for name in names]


def _processes(layout: Layout, groups: list[str]) -> list[Leftover]:
    """Return VMM processes, recognised by user ids that nothing else on the machine has."""
    group_of = {pid: name for name in groups for pid in cgroups.members(layout.cgroup(name))}
    first = layout.vmm_uid(0)
    uids = range(first, layout.vmm_uid(max(IMAGE_JOB_SLOTS)) + 1)
    image_uids = range(layout.image_ids(IMPORT_SLOTS[0]), layout.image_ids(IMPORT_SLOTS[-1]) + ID_COUNT)
    found: list[Leftover] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile
            if entry.name.isdigit() and ((uid := entry.stat().st_uid) in uids or uid in image_uids):
                found.append(Leftover("process", entry.name, group_of.get(int(entry.name), "")))
    return found


def _folders(layout: Layout) -> list[Leftover]:
    sandboxes = sorted(layout.sandboxes.iterdir()) if layout.sandboxes.is_dir() else []
    drafts = [
        *layout.bases.glob(_DRAFTS),
        *layout.snapshots.glob(_DRAFTS),
        *ImageFolder(layout.images).drafts(),
    ]
    all_ids = snapshots.snapshot_ids(layout.snapshots) if layout.snapshots.is_dir() else ()
    return [
        *(Leftover("files", str(path), path.name) for path in sandboxes),
        *(Leftover("files", str(path), _DRAFT) for path in sorted(drafts)),
        *(Leftover("snapshot", str(layout.snapshots / name), name) for name in all_ids),
        *(Leftover(_IMAGE_BUILD, str(path)) for path in abandoned_scratch(layout.data_dir)),
        *(Leftover("layer", str(path), name) for name, path in layer_files(layout.layers).items()),
    ]
