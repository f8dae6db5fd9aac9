"""Layers of disks: stacked, copied, sealed, checked, removed."""

from __future__ import annotations

import pytest

from tests.drivers.adapter import DriverAdapter
from wrenn.storage.damage import DamagedSnapshot
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def written(driver: DriverAdapter, content: str, *below: str) -> str:
    """A frozen layer in which a machine has written a file."""
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef(below, driver.base))
    await driver.restore(layer, DiskRef((layer, *below), driver.base), ImageRef(driver.base))
    await driver.run(layer, f"echo {content} >>/root/file; sync")
    await driver.freeze(layer)
    await driver.kill(layer)
    return layer


async def read(driver: DriverAdapter, *below: str, copy_of: str = "") -> str:
    """What a new machine over these layers finds in the file."""
    layer = new_layer_id()
    await driver.create_layer(layer, DiskRef(below, driver.base), copy_of=copy_of)
    await driver.restore(layer, DiskRef((layer, *below), driver.base), ImageRef(driver.base))
    return await driver.run(layer, "cat /root/file")


async def test_a_layer_shows_what_lies_below_it_and_leaves_it_as_it_is(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    seal = await driver.seal_layer(first)
    second = await written(driver, "two", first)
    await driver.check_layer(seal)
    assert await read(driver, second, first) == "one\ntwo\n"
    assert await read(driver, first) == "one\n"


async def test_a_copy_of_a_layer_needs_only_what_lay_below_that(driver: DriverAdapter) -> None:
    first = await written(driver, "one")
    second = await written(driver, "two", first)
    assert await read(driver, first, copy_of=second) == "one\ntwo\n"
    await driver.remove_layer(second)
    assert await read(driver, first) == "one\n"


async def test_a_sealed_layer_that_was_altered_or_is_missing_is_damaged(driver: DriverAdapter) -> None:
    layer = await written(driver, "one")
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
