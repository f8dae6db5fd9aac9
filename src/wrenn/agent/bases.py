"""The bases of a host: each template is booted once per shape; every later create restores that base.

This module decides when a base is made, replaced or removed; `base_boot.py` makes it.
Concurrent requests for one base share one task that makes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from wrenn.agent.layout import Layout
from wrenn.base.errors import Unavailable, WrennError
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.linux.files import remove_tree, translated
from wrenn.storage.errors import DamagedBase
from wrenn.vm import BootSource, Driver, Facts, ImageRef, Shape
from wrenn.vm.bases import base_key

_log = logging.getLogger(__name__)

_UNUSED_LIMIT: Final = 16
"""Bases without a sandbox or snapshot that are retained; about 100 MB of disk each."""
_IN_USE_S: Final = 60.0
_DRAFT_PREFIX: Final = ".draft-"


class BaseMaker(Protocol):
    """Makes bases. It knows the templates and everything that a base of one depends on."""

    def templates(self) -> Mapping[str, str]:
        """Return the templates of this host, with what identifies the content of each; empty: not known."""
        ...

    def facts(self, template: str, shape: Shape) -> Facts:
        """Return everything that determines the content of a base made now.

        Raises:
            NotFound: no such template. InvalidState: it is damaged.
        """
        ...

    def metadata(self, template: str) -> Mapping[str, str]:
        """Return the versions that a base made now would contain, for display. Raises as `facts`."""
        ...

    def boot_source(self) -> BootSource:
        """Return what a sandbox whose memory was not saved boots from, besides its disk.

        Raises:
            NotFound: it is not built. InvalidState: it is damaged.
        """
        ...

    async def make(self, undo: Undo, draft: Path, key: str, template: str, shape: Shape) -> None:
        """Make all files of the base in `draft`, except for the manifest, and push the undo steps onto `undo`."""
        ...


@dataclass(frozen=True, slots=True)
class ReadyBase:
    """A base that was checked, with the versions that it was made from, for display."""

    key: str
    metadata: Mapping[str, str]


class Bases:
    """The bases of this host: finds, makes, and removes them."""

    def __init__(
        self, *, layout: Layout, driver: Driver, maker: BaseMaker, metadata: Mapping[str, str]
    ) -> None:
        self._layout = layout
        self._driver = driver
        self._maker = maker
        self._metadata = metadata
        self._ready: dict[str, ReadyBase] = {}
        self._last_use: dict[str, float] = {}
        self._making: dict[str, asyncio.Task[ReadyBase]] = {}
        self._making_of: dict[str, str] = {}

    def sweep(self) -> None:
        """Remove drafts that a killed agent left behind."""
        self._layout.bases.mkdir(mode=0o700, exist_ok=True)
        for draft in self._layout.bases.glob(f"{_DRAFT_PREFIX}*"):
            remove_tree(draft)

    def unreferenced(self, named: Container[str]) -> list[str]:
        """Return the keys of bases that can be removed: not in `named`, and outdated or beyond the limit of unused ones.

        Any user may ask for any shape, and each costs disk, so the number of unused bases is limited.
        """
        keys = [d.name for d in self._layout.bases.iterdir()]
        free = [key for key in keys if key not in named and not key.startswith(".")]
        current = sorted(
            (key for key in free if self._is_current(key)), key=lambda key: self._last_use.get(key, 0.0)
        )
        # A create that took one just now has not written it into its journal yet.
        recent = time.monotonic() - _IN_USE_S
        outdated = [key for key in free if key not in current]
        surplus = current[: max(0, len(current) - _UNUSED_LIMIT)]
        return [key for key in (*outdated, *surplus) if self._last_use.get(key, -_IN_USE_S) < recent]

    def templates_of(self, keys: Iterable[str]) -> set[str]:
        """Return the templates of these bases and of those that are being made."""
        made = {str(self._driver.bases.facts_of(key).get("template", "")) for key in keys}
        return made | set(self._making_of.values())

    def remove(self, key: str) -> None:
        """Remove a base. VMs that were restored from it keep running: their files stay open."""
        self._ready.pop(key, None)
        self._last_use.pop(key, None)
        self._driver.memory.forget(ImageRef(key))
        remove_tree(self._layout.bases / key)

    def _is_current(self, key: str) -> bool:
        """Return whether a create made now would use this base."""
        facts = self._driver.bases.facts_of(key)
        try:
            template, shape = str(facts["template"]), Shape(int(facts["vcpus"]), int(facts["memory_mb"]))
            return key == base_key(self._maker.facts(template, shape))
        except (KeyError, ValueError, WrennError):
            return False

    async def get(self, template: str, shape: Shape) -> ReadyBase:
        """Return the base of `template` in `shape`; make it first if there is none.

        A caller's cancellation does not stop the making: others wait for it too.

        Raises:
            NotFound: no such template.
        """
        facts = self._maker.facts(template, shape)
        key = base_key(facts)
        self._last_use[key] = time.monotonic()
        if (ready := self._ready.get(key)) is not None:
            return ready
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(self._find_or_make(key, facts, template, shape), name=f"base {key}")
            self._making[key] = task
            self._making_of[key] = template
            task.add_done_callback(partial(self._made, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel all bases that are being made."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _made(self, key: str, task: asyncio.Task[ReadyBase]) -> None:
        del self._making[key]
        del self._making_of[key]
        if not task.cancelled() and task.exception() is None:
            self._ready[key] = task.result()

    async def _find_or_make(self, key: str, facts: Facts, template: str, shape: Shape) -> ReadyBase:
        try:
            if await asyncio.to_thread(self._driver.bases.find, key):
                return await self._loaded(key, template)
        except DamagedBase as error:
            _log.warning("base is damaged and made again", extra={"base": key, "reason": error.message})
        await self._make(key, facts, template, shape)
        if self._maker.facts(template, shape) != facts:
            # Made of other images than its key says: it is no base of a create of today, and is collected.
            self._driver.memory.forget(ImageRef(key))
            remove_tree(self._layout.bases / key)
            raise Unavailable(f"The images of {template} were replaced while it was prepared. Try again.")
        self._driver.memory.forget(ImageRef(key))  # one of this key that was loaded is another base's
        return await self._loaded(key, template)

    async def _loaded(self, key: str, template: str) -> ReadyBase:
        # Now, so that its memory is known to be whole before a sandbox is promised.
        await self._driver.memory.load(ImageRef(key))
        return ReadyBase(key, {**self._metadata, **self._maker.metadata(template)})

    async def _make(self, key: str, facts: Facts, template: str, shape: Shape) -> None:
        started = time.monotonic()
        draft = self._layout.bases / f"{_DRAFT_PREFIX}{key}"
        async with Undo() as undo:
            remove_tree(draft)
            try:
                draft.mkdir(mode=0o700, parents=True)
            except OSError as error:
                raise translated(error, doing="create the base's folder") from error
            undo.push("remove draft", lambda: asyncio.to_thread(remove_tree, draft))
            await fault_point("agent.base.after_draft")
            await self._maker.make(undo, draft, key, template, shape)
            await fault_point("agent.base.after_save")
            # The undo steps run on success too: they release the VM's resources; the draft has been renamed by then.
            try:
                await asyncio.to_thread(self._driver.bases.publish, draft, key=key, facts=facts)
            except OSError as error:
                raise translated(error, doing="keep the template's snapshot") from error
        _log.info("base made", extra={"base": key, "duration_ms": int((time.monotonic() - started) * 1000)})
