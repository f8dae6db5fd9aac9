"""Layers of disks: stacked, copied, sealed, checked, removed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.drivers.adapter import DriverAdapter
from wrenn.base.units import GIB
from wrenn.storage.errors import DamagedSnapshot
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True)
class Frozen:
    """A disk that a machine has written, with the memory that goes with it: a guest knows what is on its disk."""

    layers: tuple[str, ...]
    snapshot: str

    @property
    def top(self) -> str:
        return self.layers[0]


async def restored(
    driver: DriverAdapter, below: tuple[str, ...], snapshot: str, *, copy_of: str = ""
) -> tuple[str, ...]:
    """A new machine, called after its layer, over these frozen layers; returns all its layers."""
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef(below, driver.base), copy_of=copy_of)
    await driver.restore(layer, DiskRef((layer, *below), driver.base), ImageRef(driver.base, snapshot))
    return layer, *below


async def written(driver: DriverAdapter, content: str, below: Frozen | None = None) -> Frozen:
    """What lies below, with another line in a file."""
    former = below.snapshot if below else ""
    layers = await restored(driver, below.layers if below else (), former)
    await driver.run(layers[0], f"echo {content} >>/root/file; sync")
    await driver.suspend(layers[0])
    snapshot = await driver.save(layers[0], ImageRef(driver.base, former), layers)
    await driver.kill(layers[0])
    return Frozen(layers, snapshot)


async def read(driver: DriverAdapter, machine: str) -> str:
    """What is in the file on the disk, not in the guest's memory."""
    forget = "echo 3 >/proc/sys/vm/drop_caches; " if driver.capabilities.keeps_memory else ""
    return await driver.run(machine, f"{forget}cat /root/file")


async def test_a_layer_shows_what_lies_below_it_and_leaves_it_as_it_is(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    seal = await driver.seal_layer(first.top)
    second = await written(driver, "two", first)
    await driver.check_layer(seal)
    for frozen, content in ((second, "one\ntwo\n"), (first, "one\n")):
        machine, *_ = await restored(driver, frozen.layers, frozen.snapshot)
        assert await read(driver, machine) == content


async def test_a_layer_that_was_carried_to_another_host_is_the_same(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    second = await written(driver, "two", first)
    seals = [await driver.seal_layer(layer) for layer in second.layers]
    for layer in second.layers:
        await driver.carry_layer(layer)
    for seal in seals:
        await driver.check_layer(seal)
    machine, *_ = await restored(driver, second.layers, second.snapshot)
    assert await read(driver, machine) == "one\ntwo\n"
    with pytest.raises(DamagedSnapshot, match="missing"):
        await driver.carry_layer(new_layer_id())


async def test_a_base_that_was_carried_to_another_host_has_the_same_content(driver: DriverAdapter) -> None:
    assert await driver.carry_base("ab" * 12) == await driver.base_digest()


async def test_a_copy_of_a_layer_needs_only_the_layers_below(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    second = await written(driver, "two", first)
    machine, *_ = await restored(driver, first.layers, second.snapshot, copy_of=second.top)
    await driver.remove_layer(second.top)
    assert await read(driver, machine) == "one\ntwo\n"


async def test_a_larger_disk_lies_on_a_layer_of_a_smaller_one(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef(first.layers, driver.base), larger_b=GIB)
    disk = DiskRef((layer, *first.layers), driver.base)
    await driver.restore(layer, disk, ImageRef(driver.base, first.snapshot))
    assert await read(driver, layer) == "one\n"


@pytest.mark.needs("sized_disks")
async def test_a_copy_is_as_large_as_its_disk(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    before = await driver.layer_ids()
    with pytest.raises(DamagedSnapshot, match="smaller"):
        await driver.create_layer(new_layer_id(), DiskRef((), driver.base), copy_of=first.top, larger_b=GIB)
    assert await driver.layer_ids() == before


async def test_a_sealed_layer_that_was_altered_or_is_missing_is_damaged(driver: DriverAdapter) -> None:
    layer = (await written(driver, "one")).top
    seal = await driver.seal_layer(layer)
    assert seal.layer_id == layer
    assert seal == await driver.seal_layer(layer)
    await driver.check_layer(seal)
    await driver.flush_layer(layer)
    await driver.damage_layer(layer)
    with pytest.raises(DamagedSnapshot, match=layer):
        await driver.check_layer(seal)
    await driver.remove_layer(layer)
    with pytest.raises(DamagedSnapshot, match="missing"):
        await driver.check_layer(seal)
    with pytest.raises(FileNotFoundError):
        await driver.flush_layer(layer)


async def test_layers_are_listed_measured_and_removed(driver: DriverAdapter) -> None:
    assert await driver.layer_ids() == []
    layers = sorted(new_layer_id() for _ in range(3))
    for layer in layers:
        await driver.create_layer(layer, DiskRef((), driver.base))
    assert await driver.layer_ids() == layers
    assert 0 < await driver.layer_b(layers[0]) < 2**20
    for _ in range(2):
        await driver.remove_layer(layers[0])
    assert await driver.layer_b(layers[0]) == 0
    await driver.move_layer_out(layers[1])
    assert await driver.layer_ids() == layers[2:]


async def test_a_flattened_disk_is_one_sparse_file_of_its_size(driver: DriverAdapter) -> None:
    """That sandboxes can be made of it is tested in tests/agent and tests/vm."""
    first = await written(driver, "one")
    second = await written(driver, "two", first)
    size_b, allocated_b, reported_b = await driver.flatten(DiskRef(second.layers, driver.base))
    # A driver that knows which parts of the disk are written reports those alone.
    assert size_b >= GIB
    assert 0 < reported_b <= size_b
    assert 0 < allocated_b < size_b // 2
    assert "flatten" not in await driver.confined()
