"""Starts QEMU VMs and adopts those of a former agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure
from wrenn.base.on_failure import on_failure_await
from wrenn.base.units import MIB
from wrenn.linux import threads
from wrenn.linux.files import link_or_copy
from wrenn.linux.private_root import PrivateRoot
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.spawn import Confinement, spawn_confined
from wrenn.storage import snapshots
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import Snapshot
from wrenn.vm.driver import BootRequest, BootSource, Capabilities, FlattenRequest, RestoreRequest, Shape
from wrenn.vm.kvm import kvm_group
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory import ImageRef
from wrenn.vm.memory_diff import apply_diff
from wrenn.vm.memory_files import memory_path, state_path
from wrenn.vm.qemu import command_line
from wrenn.vm.qemu.bases import QemuBase, QemuBases
from wrenn.vm.qemu.command_line import HOST_CPU, Descriptors
from wrenn.vm.qemu.disks import Qcow2Disks, create_empty_overlay
from wrenn.vm.qemu.flatten import flatten
from wrenn.vm.qemu.installation import build_root
from wrenn.vm.qemu.machine import CONSOLE_NAME, LOG_NAME, SOCKET_NAME, QemuMachine, find_memory
from wrenn.vm.qemu.memory import QemuMemory
from wrenn.vm.qemu.opened import Opened

_KILL_TIMEOUT_S: Final = 10.0
_MAPPING_TIMEOUT_S: Final = 30.0
"""QEMU starts in 0.2 s; on a slow and busy host it has taken more than 10 s. One that ends is noticed at once."""
_FILL_TIMEOUT_S: Final = 60.0
"""A gigabyte takes half a second from memory, some seconds from a slow disk."""
_MAPPING_POLL_S: Final = 0.001
"""QEMU maps its memory some 20 ms after its start, without a notification."""


class QemuDriver:
    """Runs VMs with QEMU. Implements `wrenn.vm.driver.Driver`."""

    def __init__(
        self, *, accelerator: str, version: str, folders: Folders, cpu_model: str = HOST_CPU
    ) -> None:
        self._accelerator = accelerator
        self._cpu_model = cpu_model
        self._version = version
        self._bases = QemuBases(folders.bases)
        self._disks = Qcow2Disks(folders.layers, self._bases)
        self._memory = QemuMemory(folders)
        self._snapshots = folders.snapshots
        self._root: PrivateRoot | None = None
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        """Create the root file system for QEMU processes, unless it exists.

        It holds the QEMU that is installed now, even after an upgrade: `vmm` stays true until the agent restarts.

        Raises:
            CommandError: QEMU or something that it needs is not installed.
        """
        async with self._preparing:
            if self._root is None:
                self._root = await build_root(self._accelerator)

    async def kill(self, process: ProcessRef, directory: Path) -> None:
        """End a VMM that nobody has adopted."""
        del directory
        await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)

    async def clean(self, directory: Path) -> None:
        """Do nothing: nothing is left of a machine that has ended."""

    async def sweep(self) -> None:
        """Do nothing: nothing is left of a machine that has ended."""

    async def close(self) -> None:
        """Unload memory images and the root file system for new VMs; VMs keep running."""
        await self._memory.close()
        if self._root is not None:
            self._root.close()
            self._root = None

    @property
    def vmm(self) -> str:
        """Name and version."""
        return f"qemu {self._version}"

    @property
    def accelerator(self) -> str:
        """`kvm` or `tcg`."""
        return self._accelerator

    @property
    def machine(self) -> str:
        """Machine type, CPU model, devices."""
        return command_line.machine_text(self._accelerator, self._cpu_model)

    @property
    def shows_host_cpu(self) -> bool:
        """Whether guests see the processor of this machine: under KVM, unless a model is named."""
        return self._accelerator == "kvm" and self._cpu_model == HOST_CPU

    @property
    def capabilities(self) -> Capabilities:
        """All capabilities: QEMU supports each of them."""
        return Capabilities(keeps_memory=True, merges_layers=True, sized_disks=True)

    @property
    def disks(self) -> Qcow2Disks:
        """The layers of root disks."""
        return self._disks

    @property
    def memory(self) -> QemuMemory:
        """Saved memory, and the memory images of running VMs."""
        return self._memory

    @property
    def bases(self) -> QemuBases:
        """The stored bases."""
        return self._bases

    async def boot(self, request: BootRequest) -> QemuMachine:
        """Start a cold boot whose guest RAM is a file that becomes the base's memory."""
        base, images = QemuBase(request.directory.name, request.directory), request.images
        with base.memory.open("wb") as memory:
            memory.truncate(request.shape.memory_mb * MIB)
        await asyncio.to_thread(link_or_copy, images.rootfs, base.image)
        size_b = images.rootfs.stat().st_size
        await create_empty_overlay(base.empty_disk, size_b=size_b)
        await create_empty_overlay(base.disk, size_b=size_b)
        # QEMU opens the memory file anew through /proc/self/fd, as its own user.
        os.chown(base.memory, request.confinement.uid, request.confinement.uid)
        await self.prepare()
        with Opened() as opened:
            return await self._start(
                request.directory,
                request.shape,
                request.confinement,
                Descriptors(
                    qmp_listener=opened.listen(request.directory / SOCKET_NAME),
                    tap=opened.take(request.link.open_tap()),
                    memory=opened.open(base.memory, os.O_RDWR),
                    disk_layers=opened.open_layers((base.disk, images.rootfs)),
                    overlay=base.disk.stem,
                    kernel=opened.copy(images.kernel),
                    initramfs=opened.copy(images.initramfs),
                    writes_memory=True,
                    console=opened.open(
                        request.directory / CONSOLE_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                    ),
                ),
                opened,
                kernel_args=request.kernel_args,
            )

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Suspend the VM and write its device state; its memory and disk are in the base's folder already."""
        assert isinstance(machine, QemuMachine), "a machine of this driver"
        await machine.suspend()
        await machine.save_state(QemuBase(request.directory.name, request.directory).state)

    async def restore(self, request: RestoreRequest) -> QemuMachine:
        """Start a restore. With a memory diff the device state waits in a pipe until the memory is complete.

        The RAM of a machine that boots has the base's content, as that of a computer has what was there before a reset. So its memory
        is saved like that of any other, and pages that the guest does not write take no memory of the host.
        """
        await self.prepare()
        async with self._memory.images.descriptor(request.image) as memory:
            if request.boot is not None:
                with Opened() as opened:
                    return await self._start_restore(request, memory, opened, None, boot=request.boot)
            if request.saved:
                return await self._restore_saved(request, memory)
            image = request.image
            state = (
                state_path(self._snapshots / image.snapshot) if image.snapshot else self._base_state(image)
            )
            with Opened() as opened:
                return await self._start_restore(request, memory, opened, opened.open(state, os.O_RDONLY))

    def _base_state(self, image: ImageRef) -> Path:
        return self._bases.of(image.base).state

    async def _restore_saved(self, request: RestoreRequest, memory: int) -> QemuMachine:
        saved = snapshots.find(self._snapshots, request.saved)
        content = state_path(saved.directory).read_bytes()
        with contextlib.ExitStack() as until_filled:
            with Opened() as opened:
                state, feed = opened.pipe()
                until_filled.callback(os.close, feed)
                machine = await self._start_restore(request, memory, opened, state)
            filling = threads.start_in(threads.LOADING, partial(_fill, machine, saved, content, feed))
            try:
                async with (
                    on_failure_await(partial(threads.wait_ended, filling)),
                    on_failure_await(machine.kill),  # whatever the thread waits for ends with it
                    asyncio.timeout(_FILL_TIMEOUT_S),
                ):
                    await asyncio.shield(filling)
            except TimeoutError as error:
                raise AgentFailure(
                    "The virtual machine was not filled in time.", context={"log": machine.log_tail()}
                ) from error
        return machine

    async def _start_restore(
        self,
        request: RestoreRequest,
        memory: int,
        opened: Opened,
        state: int | None,
        *,
        boot: BootSource | None = None,
    ) -> QemuMachine:
        return await self._start(
            request.directory,
            request.shape,
            request.confinement,
            Descriptors(
                qmp_listener=opened.listen(request.directory / SOCKET_NAME),
                tap=opened.take(request.link.open_tap()),
                memory=memory,
                disk_layers=opened.open_layers(self._disks.files_of(request.disk)),
                overlay=request.disk.layers[0],
                state=state,
                kernel=opened.copy(boot.kernel) if boot else None,
                initramfs=opened.copy(boot.initramfs) if boot else None,
            ),
            opened,
            kernel_args=boot.kernel_args if boot else "",
        )

    async def _start(
        self,
        directory: Path,
        shape: Shape,
        confinement: Confinement,
        fds: Descriptors,
        opened: Opened,
        *,
        kernel_args: str = "",
    ) -> QemuMachine:
        assert self._root is not None, "a VM is started before the driver is prepared"
        argv = command_line.build(
            accelerator=self._accelerator,
            shape=shape,
            fds=fds,
            cpu_model=self._cpu_model,
            kernel_args=kernel_args,
        )
        group = kvm_group() if self._accelerator == "kvm" else None
        spawning = partial(
            spawn_confined,
            argv,
            root=self._root,
            confinement=confinement if group is None else replace(confinement, groups=(group,)),
            pass_fds=(*opened.fds, fds.memory),
            log=directory / LOG_NAME,
        )
        process = await threads.run_to_end(spawning, drop=ProcessRef.kill_and_reap)
        return QemuMachine(MachineHandle(process, directory), self._disks)

    async def flatten(self, request: FlattenRequest) -> None:
        """Write the content of a disk into a raw image, by a confined QEMU without a machine."""
        await self.prepare()
        assert self._root is not None, "prepared in the line before"
        await flatten(self._disks, request, self._root)

    async def adopt(self, handle: MachineHandle) -> QemuMachine | None:
        """Return the VM that a former agent started, or None if it has ended."""
        # A VMM that is slow to answer, or stopped on a full disk, has not ended: only its process says that.
        return QemuMachine(handle, self._disks) if handle.process.is_alive() else None


def _fill(machine: QemuMachine, saved: Snapshot, state: bytes, feed: int) -> None:
    """Wait for the VM's memory, apply the saved diff to it, then send the device state. Blocking; run in a thread."""
    process = machine.handle.process
    deadline = time.monotonic() + _MAPPING_TIMEOUT_S
    while (memory := find_memory(process)) is None:
        if not process.is_alive() or time.monotonic() > deadline:
            raise AgentFailure("The virtual machine did not start.", context={"log": machine.log_tail()})
        time.sleep(_MAPPING_POLL_S)
    apply_diff(memory_path(saved.directory), saved.manifest.memory_digest, memory)
    try:
        with open(feed, "wb", closefd=False) as pipe:
            pipe.write(state)
    except BrokenPipeError as error:
        raise AgentFailure(
            "The virtual machine did not start.", context={"log": machine.log_tail()}
        ) from error
