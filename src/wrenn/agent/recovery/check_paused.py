"""Checks what a paused sandbox is, when an agent starts: a power cut may have torn what its last pause has saved.

The rules: docs/design/snapshots.md, "Durability".
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import Record, State
from wrenn.agent.sandboxes.check_snapshot import check_intact
from wrenn.base.errors import NotFound
from wrenn.linux.boot import boot_id
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.snapshots import Manifest, Snapshot
from wrenn.vm import Driver

WENT_BACK: Final = "Its last pause was not whole after a power cut. This is what it was at the pause before."
DOUBTFUL: Final = "The host lost its power just after the pause. Its memory and the list of its files are whole; its disk may lack what it wrote last."


def checked(layout: Layout, driver: Driver, record: Record) -> Record:
    """Return the record of a paused sandbox as it is, or back at the pause before, or LOST, or with a reason to doubt its disk. Blocking."""
    # A record of a former version does not say in which boot it was saved.
    may_be_torn = not record.is_flushed and record.unflushed_boot != boot_id()
    try:
        snapshot = check_intact(layout, driver, record.snapshot)
        if may_be_torn and snapshot.manifest.has_memory:
            driver.memory.verify_memory(snapshot)
    except (NotFound, DamagedSnapshot) as error:
        if (former := _former(layout, driver, record)) is not None:
            return _back_at(former, record)
        return record.with_state(State.LOST, reason=f"What was saved of it is damaged. {error.message}")
    if may_be_torn and record.unflushed_boot and _is_doubtful(layout, snapshot.manifest, record):
        # The memory of such a pause would go on with a disk of some time before: its files would be damaged without a word.
        former = _former(layout, driver, record)
        return replace(record, reason=DOUBTFUL) if former is None else _back_at(former, record)
    return record


def _former(layout: Layout, driver: Driver, record: Record) -> Snapshot | None:
    """Return the snapshot of the pause before, if it is intact."""
    try:
        return check_intact(layout, driver, record.former_snapshot) if record.former_snapshot else None
    except (NotFound, DamagedSnapshot):
        return None


def _back_at(former: Snapshot, record: Record) -> Record:
    manifest = former.manifest
    return replace(
        record,
        snapshot=manifest.snapshot_id,
        former_snapshot="",
        unflushed_boot="",
        layers=manifest.layer_ids,
        platform=manifest.platform,
        held=False,  # it is not known whether its processes were frozen then
        reason=WENT_BACK,
        cause="",
    )


def _is_doubtful(layout: Layout, last: Manifest, record: Record) -> bool:
    """Whether the disk has a large layer, which has no digest, that is not known to have been flushed."""
    flushed: set[str] = set()
    if record.former_snapshot:
        with suppress(NotFound, DamagedSnapshot):
            flushed.update(snapshots.find(layout.snapshots, record.former_snapshot).manifest.layer_ids)
    return any(not seal.digest and seal.layer_id not in flushed for seal in last.layers)
