"""Warm snapshots: every template is booted once per shape, and from then on every create is a restore.

Making one: cold boot with the memory in a file, wait for the guest agent, warm it up (run what users run first, so that
it is in the guest's page cache), stop, save, publish. Single-flight: however many ask at once, one VM boots.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.agent.confinement import confine, file_limit_b, release_cgroup
from wrenn.agent.layout import Layout
from wrenn.agent.memory_images import ImageRef, MemoryImages
from wrenn.agent.tokens import Tokens
from wrenn.agent.vm_end import unless_it_ends
from wrenn.base.errors import WrennError
from wrenn.base.faults import fault_point
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.guest import CommandLine, Commands, GuestConnection, Identity, initialise
from wrenn.linux.files import link_or_copy, remove_tree, translated
from wrenn.network import Slots
from wrenn.storage import bases
from wrenn.storage.disks import create_empty_overlay
from wrenn.storage.images import Images, load_images
from wrenn.vm import BootRequest, Disk, Shape, Vm, VmDriver

_log = logging.getLogger(__name__)

_BOOT_TIMEOUT_S: Final = 30.0
"""A cold boot takes 3 s under emulation on an idle machine."""
_WARM_UP_TIMEOUT_S: Final = 20.0
_SETTLE_S: Final = 0.5
"""Time for the guest to fall idle; what is still running would run on in every clone."""
_WARM_UP: Final = (
    CommandLine("/bin/sh", ("-c", "true")),
    CommandLine("/bin/bash", ("-l", "-c", "true")),
    CommandLine("/usr/bin/python3", ("-c", "import json, os, subprocess, sys, socket, http.client")),
    CommandLine("/bin/sync"),
)
"""What users run first. A template without one of them is as good."""
_KEPT: Final = 16
"""Bases that no sandbox or snapshot needs kept at most, about 100 MB of disk each."""
_IN_USE_S: Final = 60.0
_DRAFT_PREFIX: Final = ".draft-"


@dataclass(frozen=True, slots=True)
class ReadyBase:
    """A base that was found whole, and the versions that it was made with, for people."""

    files: bases.Base
    metadata: Mapping[str, str]


class Bases:
    """The bases of this host."""

    def __init__(
        self,
        *,
        layout: Layout,
        images_dir: Path,
        driver: VmDriver,
        slots: Slots,
        images: MemoryImages,
        tokens: Tokens,
        guest_dns: str,
        metadata: Mapping[str, str],
    ) -> None:
        self._layout = layout
        self._images_dir = images_dir
        self._driver = driver
        self._slots = slots
        self._memory_images = images
        self._tokens = tokens
        self._guest_dns = guest_dns
        self._metadata = metadata
        self._ready: dict[str, ReadyBase] = {}
        self._last_use: dict[str, float] = {}
        self._making: dict[str, asyncio.Task[ReadyBase]] = {}

    def sweep(self) -> None:
        """Remove what a killed agent left half made."""
        self._layout.bases.mkdir(mode=0o700, exist_ok=True)
        for draft in self._layout.bases.glob(f"{_DRAFT_PREFIX}*"):
            remove_tree(draft)

    def unwanted(self, named: Container[str]) -> list[str]:
        """Keys of the bases that may go: not `named`, and of no use to a create of today, or too many.

        Every shape costs disk, and anybody may ask for any shape: only so many are kept.
        """
        free = [d for d in self._layout.bases.iterdir() if d.name not in named and not d.name.startswith(".")]
        current = sorted(
            (d.name for d in free if self._is_current(d)), key=lambda key: self._last_use.get(key, 0.0)
        )
        # A create that took one just now has not written it into its journal yet.
        recent = time.monotonic() - _IN_USE_S
        outdated = [d.name for d in free if d.name not in current]
        surplus = current[: max(0, len(current) - _KEPT)]
        return [key for key in (*outdated, *surplus) if self._last_use.get(key, -_IN_USE_S) < recent]

    def remove(self, key: str) -> None:
        """Remove a base. VMs that were made of it run on: they hold what they need open."""
        self._ready.pop(key, None)
        self._last_use.pop(key, None)
        self._memory_images.forget(ImageRef(key))
        remove_tree(self._layout.bases / key)

    def _is_current(self, directory: Path) -> bool:
        """Whether a create of today would use it: not a draft, and made of the kernel, image, VMM and so on of today."""
        facts = bases.facts_of(directory)
        try:
            template, shape = str(facts["template"]), Shape(int(facts["vcpus"]), int(facts["memory_mb"]))
            images = load_images(self._images_dir, template=template)
        except (KeyError, ValueError, WrennError):
            return False
        return directory.name == bases.base_key(self._facts(images, template, shape))

    async def get(self, template: str, shape: Shape) -> ReadyBase:
        """The base of `template` in `shape`, made now if there is none.

        A caller's cancellation does not stop the making: others wait for it too.

        Raises:
            NotFound: no such template.
        """
        images = load_images(self._images_dir, template=template)
        facts = self._facts(images, template, shape)
        key = bases.base_key(facts)
        self._last_use[key] = time.monotonic()
        if (ready := self._ready.get(key)) is not None:
            return ready
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(self._find_or_make(key, facts, images, shape), name=f"base {key}")
            self._making[key] = task
            task.add_done_callback(partial(self._made, key))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop what is being made."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _made(self, key: str, task: asyncio.Task[ReadyBase]) -> None:
        del self._making[key]
        if not task.cancelled() and task.exception() is None:
            self._ready[key] = task.result()

    def _facts(self, images: Images, template: str, shape: Shape) -> dict[str, str | int]:
        return {
            "template": template,
            "image": images.template_digest,
            "kernel": images.kernel_digest,
            "initramfs": images.initramfs_digest,
            "vmm": self._driver.vmm,
            "accelerator": self._driver.accelerator,
            "machine": self._driver.machine,
            "kernel_args": _kernel_args(self._guest_dns),
            "warm_up": repr(_WARM_UP),
            "token": self._tokens.of("bases").sha256_hex(),
            "vcpus": shape.vcpus,
            "memory_mb": shape.memory_mb,
        }

    async def _find_or_make(
        self, key: str, facts: Mapping[str, str | int], images: Images, shape: Shape
    ) -> ReadyBase:
        try:
            found = await asyncio.to_thread(bases.find, self._layout.bases, key)
            if found is not None:
                return await self._ready_base(found, images)
        except bases.DamagedBase as error:
            _log.warning("base is damaged and made again", extra={"base": key, "reason": error.message})
        made = await self._make(key, facts, images, shape)
        self._memory_images.forget(ImageRef(key))  # one of this key that was loaded is another base's
        return await self._ready_base(made, images)

    async def _ready_base(self, files: bases.Base, images: Images) -> ReadyBase:
        # Loaded now, so that its memory is known to be whole before a sandbox is promised.
        async with self._memory_images.borrowed(ImageRef(files.key)):
            pass
        metadata = {
            **self._metadata,
            "kernel_version": images.kernel_version,
            "envd_version": images.envd_digest[:12],
        }
        return ReadyBase(files, metadata)

    async def _make(
        self, key: str, facts: Mapping[str, str | int], images: Images, shape: Shape
    ) -> bases.Base:
        started = time.monotonic()
        draft = self._layout.bases / f"{_DRAFT_PREFIX}{key}"
        name = f"base-{key}"
        async with Undo() as undo:
            remove_tree(draft)
            try:
                draft.mkdir(mode=0o700, parents=True)
            except OSError as error:
                raise translated(error, doing="create the base's folder") from error
            undo.push("remove draft", lambda: asyncio.to_thread(remove_tree, draft))
            await fault_point("agent.base.after_draft")
            slot = await self._slots.acquire(name)
            undo.push("release slot", partial(self._slots.release, slot.index, name))
            files = bases.Base(key, draft)
            with files.memory.open("wb") as memory:
                memory.truncate(shape.memory_mb * MIB)
            await asyncio.to_thread(link_or_copy, images.rootfs, files.image)
            disk_size_b = images.rootfs.stat().st_size
            await create_empty_overlay(files.empty_disk, size_b=disk_size_b)
            await create_empty_overlay(files.disk, size_b=disk_size_b)
            undo.push("remove cgroup", partial(release_cgroup, self._layout, name))
            tap = slot.open_tap()
            try:
                vm = await self._driver.boot(
                    BootRequest(
                        directory=draft,
                        shape=shape,
                        disk=Disk(files.disk, (), images.rootfs),
                        memory=files.memory,
                        kernel=images.kernel,
                        initramfs=images.initramfs,
                        kernel_args=_kernel_args(self._guest_dns),
                        tap_fd=tap,
                        confinement=confine(
                            self._layout,
                            name,
                            slot.index,
                            shape,
                            file_size_b=file_limit_b(shape, disk_size_b // MIB, 0),
                        ),
                    )
                )
            finally:
                os.close(tap)
            undo.push("kill vm", vm.kill)
            await fault_point("agent.base.after_spawn")
            await self._warm_up(vm, slot.address, key)
            await vm.freeze()
            await vm.save_state(files.state)
            await vm.kill()
            await fault_point("agent.base.after_save")
            # The undo steps run on success too: the VM's resources are needed no more, and the draft has moved away.
            try:
                base = await asyncio.to_thread(bases.publish, draft, self._layout.bases, key=key, facts=facts)
            except OSError as error:
                raise translated(error, doing="keep the template's snapshot") from error
        _log.info("base made", extra={"base": key, "duration_ms": int((time.monotonic() - started) * 1000)})
        return base

    async def _warm_up(self, vm: Vm, address: str, key: str) -> None:
        token = self._tokens.of(key)
        identity = Identity(
            hostname="wrenn", machine_id="0" * 32, envs={}, token=token, former_token=None, lifecycle_id=key
        )
        try:
            await unless_it_ends(vm, initialise(address, identity, timeout_s=_BOOT_TIMEOUT_S))
        except WrennError as error:
            error.context.setdefault("console", (await vm.console())[-2000:])
            raise
        guest = GuestConnection(address, token)
        try:
            for command in _WARM_UP:
                with suppress(WrennError):
                    await Commands(guest).run(command, timeout_s=_WARM_UP_TIMEOUT_S)
        finally:
            await guest.close()
        await asyncio.sleep(_SETTLE_S)


def _kernel_args(dns: str) -> str:
    return (
        "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on net.ifnames=0 "
        f"wrenn.ip=169.254.0.21/30 wrenn.gw=169.254.0.22 wrenn.dns={dns}"
    )
