"""Networking of sandboxes: blocks, slots, firewall, egress policy. `docs/design/network.md` shows the packet paths."""

from wrenn.network.apply import ensure_flow_table
from wrenn.network.block import (
    SLOT_LIMIT,
    Block,
    claim_block,
    find_block,
    reclaim_block,
    release_block,
    unclaimed_blocks,
    vanished_blocks,
)
from wrenn.network.limits import NetworkLimits, plan_flow_table
from wrenn.network.policy import EgressPolicy
from wrenn.network.pool import LeasedSlot, SlotPool
from wrenn.network.reachable_networks import ReachableNetworks
from wrenn.network.slots import Slot, Slots
from wrenn.network.sweep import leftovers, remove_everything, remove_leftovers

__all__ = [
    "SLOT_LIMIT",
    "Block",
    "EgressPolicy",
    "LeasedSlot",
    "NetworkLimits",
    "ReachableNetworks",
    "Slot",
    "SlotPool",
    "Slots",
    "claim_block",
    "ensure_flow_table",
    "find_block",
    "leftovers",
    "plan_flow_table",
    "reclaim_block",
    "release_block",
    "remove_everything",
    "remove_leftovers",
    "unclaimed_blocks",
    "vanished_blocks",
]
