"""How the suite reaches a driver: values in, values out, machines and layers by name, so that a driver may also run elsewhere.

`LocalAdapter` has the driver in this process. One for a driver inside another machine has the same methods.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from wrenn.agent.bases import Bases
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.layout import IMAGE_JOB_SLOTS, Layout
from wrenn.agent.parts import Host, Parts
from wrenn.agent.settings import Settings
from wrenn.agent.vm_exit import fail_if_vm_exits
from wrenn.base.units import GIB
from wrenn.guest import CommandLine, Commands, GuestConnection, Identity, initialise
from wrenn.linux.files import copy_file, data_extents, remove_tree
from wrenn.storage import snapshots
from wrenn.storage.layers import LayerSeal
from wrenn.storage.snapshots import Manifest
from wrenn.vm import (
    Capabilities,
    DiskRef,
    FlattenRequest,
    ImageRef,
    Machine,
    MachineHandle,
    RestoreRequest,
    Shape,
)

SHAPE = Shape(vcpus=1, memory_mb=256)
COMMAND_TIMEOUT_S = 30.0


class DriverAdapter(Protocol):
    """One driver with one base, on a host of its own. Errors of the driver come through."""

    @property
    def name(self) -> str: ...
    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def base(self) -> str: ...
    async def base_is_whole(self) -> bool: ...
    async def base_digest(self) -> str: ...

    async def layer_ids(self) -> list[str]: ...
    async def create_layer(
        self, layer: str, below: DiskRef, *, copy_of: str = "", larger_b: int = 0
    ) -> None: ...
    async def seal_layer(self, layer: str) -> LayerSeal: ...
    async def check_layer(self, seal: LayerSeal) -> None: ...
    async def flush_layer(self, layer: str) -> None: ...
    async def layer_b(self, layer: str) -> int: ...
    async def remove_layer(self, layer: str) -> None: ...
    async def move_layer_out(self, layer: str) -> None: ...
    async def damage_layer(self, layer: str) -> None: ...
    async def carry_layer(self, layer: str) -> None: ...
    async def carry_base(self, key: str) -> str: ...
    async def flatten(self, disk: DiskRef) -> tuple[int, int, int]: ...

    async def restore(self, machine: str, disk: DiskRef, image: ImageRef, saved: str = "") -> None: ...
    async def start(self, machine: str, disk: DiskRef, image: ImageRef, saved: str = "") -> None: ...
    async def run(self, machine: str, script: str) -> str: ...
    async def suspend(self, machine: str) -> None: ...
    async def unsuspend(self, machine: str) -> None: ...
    async def save(
        self, machine: str, image: ImageRef, layers: tuple[str, ...], *, kill_at: str = ""
    ) -> str: ...
    async def check_snapshot(self, snapshot: str) -> None: ...
    async def damage_snapshot(self, snapshot: str) -> None: ...
    async def switch_layer(self, machine: str, layer: str) -> None: ...
    async def written_layer(self, machine: str) -> str: ...
    async def merge_layers(self, machine: str) -> None: ...
    async def grow_disk(self, machine: str, size_b: int) -> None: ...
    async def console(self, machine: str) -> str: ...
    async def log_tail(self, machine: str) -> str: ...
    async def fill_log(self, machine: str, size_b: int) -> None: ...
    async def log_b(self, machine: str) -> int: ...
    async def maintain(self, machine: str, *, may_unsuspend: bool) -> bool: ...
    async def disconnect(self, machine: str) -> None: ...
    async def adopt(self, machine: str) -> bool: ...
    async def lose(self, machine: str) -> None: ...
    async def kill(self, machine: str) -> None: ...
    async def wait_exit(self, machine: str) -> None: ...
    async def is_alive(self, machine: str) -> bool: ...
    async def confined(self) -> list[str]: ...
    async def release(self, machine: str) -> None: ...
    async def clean_up(self) -> None: ...


@dataclass
class _Started:
    machine: Machine
    handle: MachineHandle
    slot: int
    address: str
    guest: GuestConnection


@dataclass
class LocalAdapter:
    """The driver of an agent's parts, in this process."""

    name: str
    layout: Layout
    parts: Parts
    tokens: Tokens
    base: str
    start_limit_s: float
    _machines: dict[str, _Started] = field(default_factory=dict[str, _Started])
    _tokens_of: dict[str, str] = field(default_factory=dict[str, str])
    """Whose token the guest in a snapshot expects."""

    @property
    def capabilities(self) -> Capabilities:
        return self.parts.driver.capabilities

    @property
    def _disks(self):
        return self.parts.driver.disks

    def _vm(self, machine: str) -> Machine:
        return self._machines[machine].machine

    async def base_is_whole(self) -> bool:
        return self.parts.driver.bases.find(self.base)

    async def base_digest(self) -> str:
        return self.parts.driver.bases.content_digest(self.base)

    async def layer_ids(self) -> list[str]:
        return self._disks.list_ids()

    async def create_layer(self, layer: str, below: DiskRef, *, copy_of: str = "", larger_b: int = 0) -> None:
        """For a disk that is so much larger than its template's."""
        size_b = self._disks.image_size_b(below.base) + larger_b
        await self._disks.create(layer, below, size_b=size_b, copy_of=copy_of)

    async def seal_layer(self, layer: str) -> LayerSeal:
        return self._disks.seal(layer)

    async def check_layer(self, seal: LayerSeal) -> None:
        self._disks.check(seal)

    async def flush_layer(self, layer: str) -> None:
        self._disks.flush([layer])

    async def layer_b(self, layer: str) -> int:
        return self._disks.allocated_b(layer)

    async def remove_layer(self, layer: str) -> None:
        await self._disks.remove(layer)

    async def move_layer_out(self, layer: str) -> None:
        folder = self.layout.data_dir / "gone"
        folder.mkdir(exist_ok=True)
        self._disks.move_out(layer, folder)
        assert (folder / layer).exists()
        remove_tree(folder)

    async def damage_layer(self, layer: str) -> None:
        (path,) = self.layout.layers.glob(f"{layer}*")
        _damage(
            next(p for p in path.rglob("*") if p.is_file() and not p.is_symlink()) if path.is_dir() else path
        )

    async def carry_layer(self, layer: str) -> None:
        """Replace a frozen layer by what another host would make of its exported file."""
        with tempfile.TemporaryDirectory(dir=self.layout.data_dir) as folder:
            scratch, carried = Path(folder, "scratch"), Path(folder, "carried")
            scratch.mkdir()
            copy_file(await self._disks.export(layer, scratch), carried)
            await self.move_layer_out(layer)
            await self._disks.restore(layer, carried)

    async def carry_base(self, key: str) -> str:
        """Make the base `key` of the exported files of this one; returns its digest. It is removed again."""
        bases = self.parts.driver.bases
        with tempfile.TemporaryDirectory(dir=self.layout.data_dir) as folder:
            scratch, carried = Path(folder, "scratch"), Path(folder, "carried")
            for path in (scratch, carried):
                path.mkdir()
            for name, file in (await bases.export(self.base, scratch)).items():
                copy_file(file, carried / name)
            await bases.restore(carried, key=key, facts=bases.facts_of(self.base))
        try:
            assert bases.find(key)
            assert bases.facts_of(key) == bases.facts_of(self.base)
            return bases.content_digest(key)
        finally:
            remove_tree(self.layout.bases / key)

    async def flatten(self, disk: DiskRef) -> tuple[int, int, int]:
        """Flatten a disk; return the size of the image, the bytes that it takes, and those of the last report."""
        image = self.layout.data_dir / "flattened"
        size_b = self._disks.size_b(disk.layers[0])
        confinement = self.parts.confiner.confine(
            "flatten", IMAGE_JOB_SLOTS[0], SHAPE, file_size_b=size_b + GIB
        )
        reported: list[tuple[int, int]] = []
        try:
            await self.parts.driver.flatten(
                FlattenRequest(
                    disk, size_b, image, confinement, lambda done, total: reported.append((done, total))
                )
            )
            status = image.stat()
            assert reported[-1][0] == reported[-1][1]
            return status.st_size, status.st_blocks * 512, reported[-1][1]
        finally:
            image.unlink(missing_ok=True)
            await self.parts.confiner.release("flatten")

    async def start(self, machine: str, disk: DiskRef, image: ImageRef, saved: str = "") -> None:
        """As far as the driver goes."""
        slot = await self.parts.slots.acquire(machine)
        directory = self.layout.sandboxes / machine
        directory.mkdir()
        try:
            vm = await self.parts.driver.restore(
                RestoreRequest(
                    directory=directory,
                    shape=SHAPE,
                    disk=disk,
                    image=image,
                    saved=saved,
                    metadata={"sandbox_id": machine, "template_id": "minimal"},
                    link=slot,
                    confinement=self.parts.confiner.confine(machine, slot.index, SHAPE, file_size_b=GIB),
                )
            )
        except BaseException:
            await self.parts.slots.release(slot.index, machine)
            remove_tree(directory)
            raise
        guest = GuestConnection(slot.address, self.tokens.of(machine))
        self._machines[machine] = _Started(vm, vm.handle, slot.index, slot.address, guest)

    async def restore(self, machine: str, disk: DiskRef, image: ImageRef, saved: str = "") -> None:
        """Until the guest answers, with an identity of its own."""
        await self.start(machine, disk, image, saved)
        former = self._tokens_of.get(saved or image.snapshot, image.base)
        identity = Identity(
            hostname=machine,
            machine_id=secrets.token_hex(16),
            envs={},
            token=self.tokens.of(machine),
            former_token=self.tokens.of(former),
            lifecycle_id=secrets.token_hex(8),
        )
        address = self._machines[machine].address
        await fail_if_vm_exits(self._vm(machine), initialise(address, identity, timeout_s=self.start_limit_s))
        await self._vm(machine).note_guest_ready()

    async def run(self, machine: str, script: str) -> str:
        command = CommandLine("/bin/sh", ("-c", script))
        result = await Commands(self._machines[machine].guest).run(command, timeout_s=COMMAND_TIMEOUT_S)
        assert result.exit_code == 0, result
        return result.stdout.decode()

    async def suspend(self, machine: str) -> None:
        await self._vm(machine).suspend()

    async def unsuspend(self, machine: str) -> None:
        await self._vm(machine).unsuspend()

    async def save(self, machine: str, image: ImageRef, layers: tuple[str, ...], *, kill_at: str = "") -> str:
        """Save the frozen machine as a snapshot; with `kill_at` it is killed when that part was written."""
        snapshot = f"snap-{secrets.token_hex(4)}"
        draft = snapshots.draft_path(self.layout.snapshots, snapshot)
        draft.mkdir()
        vm = self._vm(machine)

        async def on_part_saved(part: str) -> None:
            if part == kill_at:
                await vm.kill()

        try:
            saved = await self.parts.driver.memory.save(vm, image, draft, on_part_saved=on_part_saved)
            manifest = Manifest(
                snapshot_id=snapshot, sandbox_id=machine, template="minimal",
                vcpus=SHAPE.vcpus, memory_mb=SHAPE.memory_mb,
                vmm=self.parts.driver.vmm, accelerator=self.parts.driver.accelerator, machine=self.parts.driver.machine,
                base=image.base, base_digest=await self.base_digest(), parent=saved.parent,
                layers=tuple(self._disks.seal(layer) for layer in layers),
                created_at=0.0, metadata={}, **asdict(saved.seal),
            )  # fmt: skip
            snapshots.publish(draft, self.layout.snapshots, manifest)
        finally:
            remove_tree(draft)
        self._tokens_of[snapshot] = machine
        return snapshot

    async def check_snapshot(self, snapshot: str) -> None:
        found = snapshots.find(self.layout.snapshots, snapshot)
        self.parts.driver.memory.check(found)
        self.parts.driver.memory.verify_memory(found)

    async def damage_snapshot(self, snapshot: str) -> None:
        _damage(self.layout.snapshots / snapshot / "state")

    async def switch_layer(self, machine: str, layer: str) -> None:
        await self._vm(machine).switch_layer(layer)

    async def written_layer(self, machine: str) -> str:
        return await self._vm(machine).written_layer()

    async def merge_layers(self, machine: str) -> None:
        await self._vm(machine).merge_layers()

    async def grow_disk(self, machine: str, size_b: int) -> None:
        await self._vm(machine).grow_disk(size_b)

    async def console(self, machine: str) -> str:
        return await self._vm(machine).console()

    async def log_tail(self, machine: str) -> str:
        return self._vm(machine).log_tail()

    def _log(self, machine: str) -> Path:
        return self._machines[machine].handle.directory / "vmm.log"

    async def fill_log(self, machine: str, size_b: int) -> None:
        with self._log(machine).open("ab") as log:
            log.write(b"x" * size_b)

    async def log_b(self, machine: str) -> int:
        return self._log(machine).stat().st_size

    async def maintain(self, machine: str, *, may_unsuspend: bool) -> bool:
        return await self._vm(machine).maintain(may_unsuspend=may_unsuspend)

    async def disconnect(self, machine: str) -> None:
        self._vm(machine).disconnect()

    async def adopt(self, machine: str) -> bool:
        """Have another object for the machine, as an agent that was just started; whether it lives."""
        self._vm(machine).disconnect()
        adopted = await self.parts.driver.adopt(self._machines[machine].handle)
        if adopted is not None:
            self._machines[machine].machine = adopted
        return adopted is not None

    async def lose(self, machine: str) -> None:
        """Kill its process, as the kernel or an operator may."""
        self._machines[machine].handle.process.kill()

    async def kill(self, machine: str) -> None:
        await self._vm(machine).kill()

    async def wait_exit(self, machine: str) -> None:
        async with asyncio.timeout(10):
            await self._vm(machine).wait_exit()

    async def is_alive(self, machine: str) -> bool:
        return self._machines[machine].handle.process.is_alive()

    async def confined(self) -> list[str]:
        return self.parts.confiner.names()

    async def release(self, machine: str) -> None:
        await self.parts.confiner.release(machine)

    async def clean_up(self) -> None:
        """End all machines, remove all layers and snapshots."""
        for name, started in self._machines.items():
            with suppress(Exception):
                await started.machine.kill()
            await started.guest.close()
            await self.parts.slots.release(started.slot, name)
        self._machines.clear()
        for name in self.parts.confiner.names():
            await self.parts.confiner.release(name)
        for snapshot in list(snapshots.snapshot_ids(self.layout.snapshots)):
            self.parts.driver.memory.forget(ImageRef(self.base, snapshot))
        for folder in (self.layout.sandboxes, self.layout.snapshots):
            for path in folder.iterdir():
                remove_tree(path)
        for layer in self._disks.list_ids():
            await self._disks.remove(layer)


def _damage(path: Path) -> None:
    """Change one byte in the middle of a file's data: the file may be sparse, and far larger than memory."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        extents = list(data_extents(file.fileno()))
        start, end = extents[len(extents) // 2]
        at = (start + end) // 2
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@asynccontextmanager
async def local_adapter(name: str, host: Host, settings: Settings) -> AsyncGenerator[LocalAdapter]:
    """The driver of `host`, with a base that is made now."""
    layout = host.layout(settings)
    tokens = Tokens.load(layout.secret)
    async with host.parts(settings, layout, tokens) as parts:
        for folder in (layout.sandboxes, layout.bases, layout.snapshots, layout.layers):
            folder.mkdir(exist_ok=True)
        await parts.slots.start({})
        bases = Bases(layout=layout, driver=parts.driver, maker=parts.bases, metadata={})
        try:
            base = await bases.get("minimal", SHAPE)
            adapter = LocalAdapter(name, layout, parts, tokens, base.key, settings.start_limit_s)
            yield adapter
            await adapter.clean_up()
        finally:
            await bases.close()
            await parts.slots.close()
