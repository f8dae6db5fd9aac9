"""Starts Firecracker VMs and adopts those of a former agent. Details: docs/design/vm-firecracker.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from wrenn.base.errors import AgentFailure
from wrenn.base.tasks import OwnedTasks
from wrenn.base.undo import Undo
from wrenn.base.units import MIB
from wrenn.linux import threads
from wrenn.linux.files import link_or_copy, remove_tree, translated
from wrenn.linux.jailer import JailedStart, jail_root
from wrenn.linux.process import ProcessRef, kill_and_wait
from wrenn.linux.tap import NamedTap
from wrenn.storage import snapshots
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.folders import Folders
from wrenn.storage.snapshots import Snapshot
from wrenn.vm.driver import BootRequest, BootSource, Capabilities, FlattenRequest, RestoreRequest
from wrenn.vm.firecracker.api import (
    Drive,
    FirecrackerApi,
    MachineConfiguration,
    MemoryBackend,
    NetworkInterface,
)
from wrenn.vm.firecracker.bases import FirecrackerBase, FirecrackerBases
from wrenn.vm.firecracker.block_disks import AttachedDisk
from wrenn.vm.firecracker.disks import DmDisks
from wrenn.vm.firecracker.flatten import flatten
from wrenn.vm.firecracker.image_files import ImageFiles, compose, link_image, write_snapshot_pages
from wrenn.vm.firecracker.installation import Installation, dotted
from wrenn.vm.firecracker.jail_files import (
    API,
    DIRTIED,
    DISK,
    INITRAMFS,
    KERNEL,
    MEMORY,
    PAGER,
    STATE,
    take_file,
)
from wrenn.vm.firecracker.machine import (
    BOOTED_NAME,
    DRIVE,
    JAIL_NAME,
    LOG_NAME,
    SOCKET_NAME,
    FirecrackerMachine,
    disk_name,
)
from wrenn.vm.firecracker.memory import FirecrackerMemory
from wrenn.vm.firecracker.page_order import IMAGE_ORDER_NAME, ORDER_NAME, RECORDED_NAME, PageOrder
from wrenn.vm.firecracker.pager import PagerRequest, PagerStarter, forget_pager, pager_of
from wrenn.vm.firecracker.zero_pages import copy_without_zeros
from wrenn.vm.machine import Machine, MachineHandle
from wrenn.vm.memory_files import memory_path, state_path

GUEST_MAC: Final = "02:FC:00:00:00:05"
_INTERFACE: Final = "net"
_DEVICES: Final = f"mmio|net:{GUEST_MAC}|blk:{DRIVE}|entropy|serial|mmds:v2"
"""Any change of the devices changes this text, and so makes new bases."""
_SOCKET_TIMEOUT_S: Final = 30.0
"""Jailer and Firecracker start in 20 ms; an emulated host takes a second. One that ends is noticed at once."""
_SOCKET_POLL_S: Final = 0.002
_KILL_TIMEOUT_S: Final = 10.0


class FirecrackerDriver:
    """Runs VMs with Firecracker. Implements `wrenn.vm.driver.Driver`."""

    def __init__(
        self,
        *,
        installation: Installation,
        folders: Folders,
        prefix: str,
        disk_reserve_b: int = 0,
        pager: PagerStarter | None = None,
        serves_images: bool = False,
    ) -> None:
        """`prefix` begins the names of this installation's devices. `disk_reserve_b` of the host's disk are not for what guests write.

        With a `pager`, VMs that continue from a pause get their memory on demand, instead of from a file composed for them; with
        `serves_images` those that start from a memory image too, which otherwise map its file and share it.
        """
        self._pager = pager
        self._serves_images = serves_images
        self._installation = installation
        self._folders = folders
        self._bases = FirecrackerBases(folders.bases)
        self._disks = DmDisks(folders.layers, self._bases, prefix=prefix, reserve_b=disk_reserve_b)
        self._tasks = OwnedTasks()
        self._files = ImageFiles(folders)
        self._memory = FirecrackerMemory(folders, self._files, version=installation.version)

    async def prepare(self) -> None:
        """Remove the memory images of former agents, and begin to take disk space for what machines write."""
        await asyncio.to_thread(self._files.prepare)
        self._tasks.start("take disk space", self._disks.space.run())

    async def kill(self, process: ProcessRef, directory: Path) -> None:
        """End a Firecracker that nobody has adopted. Writes that wait for disk space fail, or it could not end."""
        process.kill()
        await self._disks.give_up(disk_name(directory))
        await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)

    async def clean(self, directory: Path) -> None:
        """Remove the disk's devices and the jail."""
        await self._disks.detach(disk_name(directory))
        await threads.run_to_end(partial(remove_tree, directory / JAIL_NAME))

    async def sweep(self) -> None:
        """Remove the disks of machines that have ended."""
        await self._disks.sweep(())

    async def close(self) -> None:
        """Unload memory images; VMs keep running. From then on what they write waits, when they have used up the space they have ahead."""
        await self._tasks.close()
        await self._memory.close()
        if self._pager is not None:
            self._pager.close()

    @property
    def vmm(self) -> str:
        """Name and version."""
        return self._installation.vmm

    @property
    def accelerator(self) -> str:
        """Firecracker has no other."""
        return "kvm"

    @property
    def machine(self) -> str:
        """The devices. The processor is the host's."""
        return _DEVICES

    @property
    def shows_host_cpu(self) -> bool:
        """Guests see the processor of this machine."""
        return True

    @property
    def capabilities(self) -> Capabilities:
        """All."""
        return Capabilities(keeps_memory=True, merges_layers=True, sized_disks=True)

    @property
    def disks(self) -> DmDisks:
        """The layers of root disks."""
        return self._disks

    @property
    def memory(self) -> FirecrackerMemory:
        """Saved memory, and the memory images of running VMs."""
        return self._memory

    @property
    def bases(self) -> FirecrackerBases:
        """The stored bases."""
        return self._bases

    async def boot(self, request: BootRequest) -> FirecrackerMachine:
        """Start a cold boot over a new copy-on-write file in the base's folder."""
        base, images = FirecrackerBase(request.directory.name, request.directory), request.images
        await asyncio.to_thread(link_or_copy, images.rootfs, base.image)
        name = disk_name(request.directory)
        async with Undo() as undo:
            undo.push("detach disk", partial(self._disks.detach, name))
            disk = await self._disks.attach_boot(name, image=base.image, written=base.written)
            source = BootSource(images.kernel, images.initramfs, request.kernel_args)
            machine = await self._boot(undo, request, disk, source)
            undo.keep()
        return machine

    async def _boot(
        self, undo: Undo, request: BootRequest | RestoreRequest, disk: AttachedDisk, source: BootSource
    ) -> FirecrackerMachine:
        def fill_jail(root: Path) -> None:
            (request.directory / JAIL_NAME / BOOTED_NAME).touch()
            for path, file in ((source.kernel, KERNEL), (source.initramfs, INITRAMFS)):
                shutil.copyfile(path, root / file)
                (root / file).chmod(0o444)

        tap = request.link.give_tap(request.confinement.uid)
        machine = await self._start(undo, request, disk, tap, fill_jail)
        async with machine.api() as api:
            await self._check_version(api)
            await api.boot(
                MachineConfiguration(
                    vcpus=request.shape.vcpus,
                    memory_mb=request.shape.memory_mb,
                    kernel=f"/{KERNEL}",
                    kernel_args=source.kernel_args,
                    initramfs=f"/{INITRAMFS}",
                    drives=(Drive(DRIVE, f"/{DISK}", read_only=False),),
                    interfaces=(NetworkInterface(_INTERFACE, tap.name, GUEST_MAC),),
                    metadata_interface=_INTERFACE,
                )
            )
        return machine

    async def save_boot(self, machine: Machine, request: BootRequest) -> None:
        """Suspend the VM, and move its memory, without pages of zeros, and its device state to the base's folder."""
        assert isinstance(machine, FirecrackerMachine), "a machine of this driver"
        base = FirecrackerBase(request.directory.name, request.directory)
        await machine.suspend()
        memory_b = request.shape.memory_mb * MIB
        await machine.save_all(memory_b=memory_b)
        whole = request.directory / "memory.whole"
        take_file(machine.root / MEMORY, whole)
        if whole.stat().st_size != memory_b:
            raise DamagedSnapshot("The virtual machine saved a memory of another size.")
        await threads.run_to_end(partial(copy_without_zeros, whole, base.memory))
        whole.unlink()
        take_file(machine.root / STATE, base.state)

    async def restore(self, request: RestoreRequest) -> FirecrackerMachine:
        """Start a restore. The guest runs when it returns."""
        if request.boot is not None:
            return await self._boot_again(request, request.boot)
        saved = snapshots.find(self._folders.snapshots, request.saved) if request.saved else None
        image = request.image
        if saved is not None:
            state = state_path(saved.directory)
        elif image.snapshot:
            state = state_path(self._folders.snapshots / image.snapshot)
        else:
            state = self._bases.of(image.base).state
        served = self._pager is not None and (saved is not None or self._serves_images)
        async with self._memory.images.descriptor(image) as memory, Undo() as undo:
            undo.push("detach disk", partial(self._disks.detach, disk_name(request.directory)))
            disk = await self._disks.attach(disk_name(request.directory), request.disk)
            tap = request.link.give_tap(request.confinement.uid)
            machine = await self._start(
                undo,
                request,
                disk,
                tap,
                partial(
                    _fill_jail,
                    memory=memory,
                    saved=saved,
                    state=state,
                    uid=request.confinement.uid,
                    maps_memory=not served,
                ),
            )
            if served:
                await self._serve_memory(undo, machine, request, memory, saved)
            async with machine.api() as api:
                await self._check_version(api)
                await api.load_snapshot(
                    state=f"/{STATE}",
                    memory=f"/{PAGER if served else MEMORY}",
                    backend=MemoryBackend.USERFAULTFD if served else MemoryBackend.FILE,
                    version=self._installation.version,
                    resume=True,
                )
                await api.put_metadata(request.metadata)
            undo.keep()
        return machine

    async def _serve_memory(
        self,
        undo: Undo,
        machine: FirecrackerMachine,
        request: RestoreRequest,
        memory: int,
        saved: Snapshot | None,
    ) -> None:
        """Start the page-fault server of a VM."""
        assert self._pager is not None, "the caller has looked"
        order = PageOrder(self._order_path(request), request.directory / RECORDED_NAME)
        parameters = PagerRequest(
            directory=request.directory,
            socket=machine.root / PAGER,
            image=memory,
            confinement=replace(request.confinement, groups=()),
            log=request.directory / LOG_NAME,
            diff=memory_path(saved.directory) if saved is not None else None,
            order=order.begin(),
            record=order.recorded,
        )
        pager = await threads.run_to_end(
            partial(self._pager.start, parameters), drop=ProcessRef.kill_and_reap
        )
        undo.push("end pager", partial(kill_and_wait, pager, timeout_s=_KILL_TIMEOUT_S))
        machine.watch_pager(pager, order)
        undo.push("forget pager", machine.forget_pager)

    def _order_path(self, request: RestoreRequest) -> Path:
        """Return where the order is in which such a start needs its pages."""
        if request.saved:
            # Each pause is another snapshot, but the machine is the same.
            return request.directory / ORDER_NAME
        if request.image.snapshot:
            return self._folders.snapshots / request.image.snapshot / IMAGE_ORDER_NAME
        return self._folders.bases / request.image.base / IMAGE_ORDER_NAME

    async def _boot_again(self, request: RestoreRequest, source: BootSource) -> FirecrackerMachine:
        """Boot a VM from its disk. Its RAM begins as zeros, and is saved over the base's image nevertheless."""
        (request.directory / ORDER_NAME).unlink(missing_ok=True)  # its memory will be another one
        async with Undo() as undo:
            undo.push("detach disk", partial(self._disks.detach, disk_name(request.directory)))
            disk = await self._disks.attach(disk_name(request.directory), request.disk)
            machine = await self._boot(undo, request, disk, source)
            async with machine.api() as api:
                await api.put_metadata(request.metadata)
            undo.keep()
        return machine

    async def _start(
        self,
        undo: Undo,
        request: BootRequest | RestoreRequest,
        disk: AttachedDisk,
        tap: NamedTap,
        fill_jail: Callable[[Path], None],
    ) -> FirecrackerMachine:
        """Start a Firecracker without a machine; returns when its API answers."""
        directory, confinement = request.directory, request.confinement
        start = JailedStart(
            jailer=self._installation.jailer,
            program=self._installation.program,
            arguments=("--api-sock", f"/{API}", "--level", "Warn"),
            folder=directory / JAIL_NAME,
            network=tap.namespace,
            confinement=confinement,
            log=directory / LOG_NAME,
        )

        def prepare_and_start() -> ProcessRef:
            remove_tree(start.folder)  # of a machine that ended by itself
            (directory / SOCKET_NAME).unlink(missing_ok=True)
            start.root.mkdir(parents=True)
            forget_pager(directory)
            fill_jail(start.root)
            disk.make_node(start.root / DISK, uid=confinement.uid, gid=confinement.uid)
            return start.run()

        undo.push("remove jail", lambda: threads.run_to_end(partial(remove_tree, start.folder)))
        process = await threads.run_to_end(prepare_and_start, drop=ProcessRef.kill_and_reap)
        undo.push("kill vm", partial(kill_and_wait, process, timeout_s=_KILL_TIMEOUT_S))
        machine = FirecrackerMachine(MachineHandle(process, directory), start.root, self._disks, disk)
        await _take_socket(machine)
        return machine

    async def _check_version(self, api: FirecrackerApi) -> None:
        """Raise an error if the program was exchanged while the agent runs: `vmm` would not be true."""
        found = (await api.describe()).version
        if found != self._installation.version:
            raise AgentFailure(
                f"Firecracker was replaced by version {dotted(found)}: restart the agent.",
                context={"expected": dotted(self._installation.version)},
            )

    async def flatten(self, request: FlattenRequest) -> None:
        """Write the content of a disk into a raw image."""
        await flatten(self._disks, request)

    async def adopt(self, handle: MachineHandle) -> FirecrackerMachine | None:
        """Return the VM that a former agent started, or None if it has ended."""
        if not handle.process.is_alive():
            return None
        # The program's name may be another one now.
        folder = handle.directory / JAIL_NAME
        root = next(folder.glob("*/*/root"), jail_root(folder, self._installation.program))
        disk = await self._disks.adopt(disk_name(handle.directory))
        machine = FirecrackerMachine(handle, root, self._disks, disk)
        if (pager := pager_of(handle.directory)) is not None:
            machine.watch_pager(pager)
        return machine


def _fill_jail(
    root: Path, *, memory: int, saved: Snapshot | None, state: Path, uid: int, maps_memory: bool
) -> None:
    """Put what a VM is restored from into its jail. Blocking."""
    try:
        if saved is None:
            if maps_memory:
                link_image(memory, root / MEMORY)
        else:
            if maps_memory:
                compose(root / MEMORY, memory, saved)
            # This compares all of the snapshot with its digests.
            _write_dirtied(root / DIRTIED, saved, size_b=os.fstat(memory).st_size, uid=uid)
        shutil.copyfile(state, root / STATE)
        os.chown(root / STATE, uid, uid)
    except OSError as error:
        raise translated(error, doing="prepare the virtual machine") from error


def _write_dirtied(path: Path, saved: Snapshot, *, size_b: int, uid: int) -> None:
    """Begin the file of dirtied pages with those of the snapshot: Firecracker adds to it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_b)
        write_snapshot_pages(fd, saved)
        os.fchown(fd, uid, uid)
    finally:
        os.close(fd)


async def _take_socket(machine: FirecrackerMachine) -> None:
    """Wait for the API's socket, and move it out of the jail.

    A VMM that a guest took over could otherwise put a link to another socket of the host there, and have the agent talk to that.
    """
    socket = machine.handle.directory / SOCKET_NAME
    deadline = time.monotonic() + _SOCKET_TIMEOUT_S
    while True:
        if (machine.root / API).is_socket():
            (machine.root / API).rename(socket)
        # It is there before Firecracker listens.
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            _, writer = await asyncio.open_unix_connection(socket)
            writer.close()
            return
        if not machine.handle.process.is_alive() or time.monotonic() > deadline:
            raise AgentFailure("The virtual machine did not start.", context={"log": machine.log_tail()})
        await asyncio.sleep(_SOCKET_POLL_S)
