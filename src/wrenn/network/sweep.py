"""Finds and removes leftovers of a block on the machine, by their names alone."""

from __future__ import annotations

from collections.abc import Collection

from wrenn.linux.namespaces import in_namespace, list_namespaces
from wrenn.linux.netlink import link_names
from wrenn.linux.nft import apply_batch, list_tables
from wrenn.network.apply import remove_slot
from wrenn.network.block import Block
from wrenn.network.firewall import root_table_removal


async def leftovers(block: Block, owned: Collection[int]) -> list[str]:
    """Return the namespaces and veths of `block` whose slot is not in `owned`, and its table if no slot is owned.

    While an agent runs, `owned` is its `Slots.held`.
    """
    names = [*list_namespaces(), *await in_namespace(None, link_names)]
    stray = [name for name in names if (slot := block.slot_of(name)) is not None and slot not in owned]
    tables = [] if owned else [table for table in await list_tables() if table == block.table]
    return sorted(stray + tables)


async def remove_stray_slots(block: Block, owned: Collection[int]) -> None:
    """Remove every slot of `block` that is not in `owned`, including partly created ones."""
    slots = {slot for name in await leftovers(block, owned) if (slot := block.slot_of(name)) is not None}
    for slot in sorted(slots):
        await remove_slot(block.namespace(slot), block.host_link(slot))


async def remove_leftovers(block: Block, owned: Collection[int]) -> list[str]:
    """Remove and return what `leftovers` finds."""
    found = await leftovers(block, owned)
    await remove_stray_slots(block, owned)
    if block.table in found:
        await apply_batch(root_table_removal(block))
    return found


async def remove_everything(block: Block) -> None:
    """Remove all slots of `block` and its table. Its VMMs must have ended: a namespace that is in use outlives its name."""
    await remove_leftovers(block, ())
