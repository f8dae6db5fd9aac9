"""Checks that a snapshot is undamaged and can be restored on this host."""

from __future__ import annotations

from wrenn.agent.layout import Layout
from wrenn.agent.vm_platform import platform_of
from wrenn.base.errors import InvalidState
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedBase, DamagedSnapshot
from wrenn.storage.layers import LayerSeal
from wrenn.storage.snapshots import Manifest, Snapshot
from wrenn.vm import Driver


def check_intact(layout: Layout, driver: Driver, snapshot_id: str) -> Snapshot:
    """Return the snapshot after checking its files, layers, base and parents. Blocking: layers are read, for up to seconds.

    Raises:
        NotFound: there is none. DamagedSnapshot: it, or what it lies on, is not what was saved.
    """
    asked = snapshot = snapshots.find(layout.snapshots, snapshot_id)
    checked: set[LayerSeal] = set()  # a snapshot has most of its layers in common with its parent
    found: set[str] = set()
    while True:
        manifest = snapshot.manifest
        if manifest.has_memory:
            driver.memory.check(snapshot)
        for layer in manifest.layers:
            if layer not in checked:
                driver.disks.check(layer)
                checked.add(layer)
        _check_base(driver, manifest)
        if not manifest.parent:
            return asked
        found.add(manifest.snapshot_id)
        if manifest.parent in found:
            raise DamagedSnapshot(f"{snapshot_id} lies on itself.")
        snapshot = snapshots.find(layout.snapshots, manifest.parent)


def _check_base(driver: Driver, manifest: Manifest) -> None:
    try:
        same = driver.bases.content_digest(manifest.base) == manifest.base_digest
    except DamagedBase as error:
        raise DamagedSnapshot(f"The base of {manifest.snapshot_id} is missing or damaged.") from error
    if not same:
        raise DamagedSnapshot(
            f"The base of {manifest.snapshot_id} was made again since; it lies on the former one."
        )


def check_restorable(layout: Layout, driver: Driver, snapshot_id: str) -> Snapshot:
    """Return the snapshot after `check_intact` and after comparing what it was saved on with this host. Blocking.

    Raises:
        as `check_intact`. InvalidState: it needs another VMM, architecture or processor; the message says which.
    """
    snapshot = check_intact(layout, driver, snapshot_id)
    require_same_platform(snapshot.manifest, driver)
    return snapshot


def require_same_platform(manifest: Manifest, driver: Driver) -> None:
    """Return if what was saved with this manifest can be restored by the driver on this machine.

    Raises:
        InvalidState: it needs another VMM, architecture or processor; the message says which.
    """
    needed = f"{manifest.vmm} with {manifest.accelerator}"
    if (manifest.vmm, manifest.accelerator) != (driver.vmm, driver.accelerator):
        raise InvalidState(
            f"{manifest.snapshot_id} was saved under {needed} and cannot be restored under "
            f"{driver.vmm} with {driver.accelerator}: install what it was saved under."
        )
    host = platform_of(driver)
    if not manifest.platform.has_same_arch(host) or not manifest.platform.has_same_cpu(host):
        raise InvalidState(
            f"{manifest.snapshot_id} was saved on another processor ({manifest.platform.arch} {manifest.platform.cpu}) than"
            f" this host has ({host.arch} {host.cpu})."
        )
    if manifest.machine != driver.machine:
        raise InvalidState(
            f"{manifest.snapshot_id} was saved on a virtual machine with other devices, by another version of wrenn."
        )
