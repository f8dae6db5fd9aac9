"""Checks that all files that paused sandboxes and snapshots need exist, and reports those that are missing."""

from __future__ import annotations

from contextlib import suppress

from wrenn.agent.doctor.check_result import Check
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes import Record
from wrenn.agent.sandboxes.garbage_collector import Referenced, find_referenced
from wrenn.agent.sandboxes.journal import State
from wrenn.base.errors import NotFound
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import layer_files
from wrenn.vm.qemu import SAVED_FILES


def check_stored_files(stored: Referenced) -> Check:
    """Check that all files that paused sandboxes and snapshots need exist."""
    broken = sorted(stored.missing | stored.unreadable)
    return Check(
        "snapshots",
        ok=not broken,
        detail=f"missing or damaged: {', '.join(broken)}" if broken else f"{len(stored.snapshots)} whole",
        hint="Sandboxes and templates that need them cannot be used: remove those, or restore a backup.",
    )


def find_stored_files(layout: Layout, records: list[Record]) -> Referenced:
    """Return referenced files; as missing also snapshot files, and layers that only journals of paused sandboxes name."""
    layer_ids = list(layer_files(layout.layers))
    found = find_referenced(layout, layer_ids, records)
    for name in found.snapshots - found.missing:
        directory = layout.snapshots / name
        # A running agent may remove it meanwhile; one that cannot be read is in `found.unreadable`.
        with suppress(NotFound, DamagedSnapshot):
            expected = SAVED_FILES if snapshots.find(layout.snapshots, name).manifest.has_memory else ()
            missing = [file for file in expected if not (directory / file).exists()]
            if directory.is_dir():
                found.missing.update(f"{name}/{file}" for file in missing)
    named = {layer for record in records if record.state is State.PAUSED for layer in record.layers}
    found.missing.update(named.difference(layer_ids))
    return found
