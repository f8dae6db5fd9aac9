"""Garbage collection of bases, snapshots and layers: finds what is referenced and removes the rest.

Roots are the journals and the pinned snapshots; snapshots reference layers, a base and a parent. There are no reference counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.bases import Bases
from wrenn.agent.layout import Layout
from wrenn.agent.sandboxes.journal import Record, State
from wrenn.base.errors import NotFound
from wrenn.base.ids import random_hex
from wrenn.base.loops import Loop
from wrenn.linux.files import remove_tree
from wrenn.linux.threads import run_to_end
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.vm import Driver, ImageRef

_log = logging.getLogger(__name__)

_REST_S: Final = 0.2
"""Pause between two collections, so that a burst of removals causes one."""


@dataclass(slots=True)
class Referenced:
    """The names of bases, snapshots and layers that are referenced.

    Attributes:
        unreadable: referenced snapshots whose manifests cannot be read.
        unknown: those of them whose references no journal names either.
        missing: files that are referenced but do not exist, for `wrenn doctor`.
    """

    bases: set[str] = field(default_factory=set[str])
    snapshots: set[str] = field(default_factory=set[str])
    layers: set[str] = field(default_factory=set[str])
    unreadable: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])
    missing: set[str] = field(default_factory=set[str])


def find_referenced(layout: Layout, layer_ids: Iterable[str], records: Iterable[Record]) -> Referenced:
    """Follow references from the journals and the pinned snapshots. `layer_ids` are the layers that exist."""
    found = Referenced()
    there = set(layer_ids)
    todo = [
        name
        for name in snapshots.snapshot_ids(layout.snapshots)
        if snapshots.is_pinned(layout.snapshots, name)
    ]
    in_journals: set[str] = set()
    for record in records:
        if record.state is State.PAUSED:
            in_journals.add(record.snapshot)
        found.bases.add(record.base)
        found.layers.update(record.layers)
        todo.append(record.former_snapshot)
        if record.next_layer:
            found.layers.add(record.next_layer)
        # What is being saved or fetched is named before it exists.
        is_whole = record.state not in (State.PAUSING, State.STARTING)
        if is_whole or (layout.snapshots / record.snapshot).exists():
            todo.append(record.snapshot)
        if record.state is not State.STARTING or (layout.snapshots / record.parent).exists():
            todo.append(record.parent)
    while todo:
        name = todo.pop()
        if not name or name in found.snapshots:
            continue
        found.snapshots.add(name)
        try:
            manifest = snapshots.find(layout.snapshots, name).manifest
        except NotFound:
            found.missing.add(name)
        except DamagedSnapshot:
            found.unreadable.add(name)
            if name not in in_journals:
                found.unknown.add(name)
        else:
            found.bases.add(manifest.base)
            found.layers.update(manifest.layer_ids)
            todo.append(manifest.parent)
            found.missing.update(layer for layer in manifest.layer_ids if layer not in there)
            if not (layout.bases / manifest.base).is_dir():
                found.missing.add(f"base {manifest.base}")
    return found


class GarbageCollector:
    """Removes unreferenced bases, snapshots and layers. `records` returns the current journals of all sandboxes."""

    def __init__(
        self, *, layout: Layout, bases: Bases, driver: Driver, records: Callable[[], Iterable[Record]]
    ) -> None:
        self._layout = layout
        self._bases = bases
        self._driver = driver
        self._records = records
        self._loop = Loop("collect garbage")
        self._disabled = False
        self._held = 0

    def disable(self) -> None:
        """Stop collecting, because not all references are known."""
        self._disabled = True

    @contextmanager
    def held(self) -> Generator[None]:
        """Collect nothing while the body runs."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self.wake()

    def wake(self) -> None:
        """Ask for a collection, because a reference may have gone."""
        self._loop.wake()

    def templates_in_use(self) -> set[str] | None:
        """Return the templates of which a sandbox, a snapshot, or a base in preparation is. None: not all references are known."""
        records = list(self._records())
        found = find_referenced(self._layout, self._driver.disks.list_ids(), records)
        if self._disabled or found.unknown:
            return None
        return {record.spec.template for record in records} | self._bases.templates_of(found.bases)

    async def run(self) -> None:
        """Collect whenever woken, until cancelled."""
        while True:
            await self._loop.wait(None)
            await self.collect()
            await asyncio.sleep(_REST_S)

    async def collect(self) -> None:
        """Remove everything unreferenced. Never raises; failures are logged, and `wrenn doctor` lists what is left over."""
        await self._loop.attempt(self._collect_and_remove, otherwise=None)

    async def _collect_and_remove(self) -> None:
        # No await inside: nothing can become referenced between the search and the removal. Removing large files takes long,
        # so here they only lose their names.
        gone = self._collect()
        # The agent's end waits for it: else it would be found as left over.
        await run_to_end(partial(remove_tree, gone))

    def _collect(self) -> Path:
        """Move everything unreferenced into one folder and return it; the caller removes the folder."""
        gone = snapshots.draft_path(self._layout.snapshots, f"gone-{random_hex(8)}")
        if self._disabled or self._held:
            return gone
        gone.mkdir(mode=0o700)
        layer_ids = self._driver.disks.list_ids()
        found = find_referenced(self._layout, layer_ids, self._records())
        for name in list(snapshots.snapshot_ids(self._layout.snapshots)):
            if name not in found.snapshots:
                self._forget(name)
                (self._layout.snapshots / name).rename(gone / name)
                _log.info("snapshot removed", extra={"snapshot_id": name})
        if found.unknown:
            _log.warning(
                "layers and bases are kept: manifests cannot be read",
                extra={"snapshots": sorted(found.unknown)},
            )
            return gone
        for layer in layer_ids:
            if layer not in found.layers:
                self._driver.disks.move_out(layer, gone)
        for key in self._bases.unreferenced(found.bases):
            self._bases.remove(key)
            _log.info("base removed", extra={"base": key})
        return gone

    def _forget(self, name: str) -> None:
        try:
            base = snapshots.find(self._layout.snapshots, name).manifest.base
        except (NotFound, DamagedSnapshot):
            return
        self._driver.memory.forget(ImageRef(base, name))
