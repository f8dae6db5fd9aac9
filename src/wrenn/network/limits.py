"""How much of the machine's network one sandbox may take, and how many fit into it. Nothing here acts.

The kernel counts tracked connections in each namespace by itself and compares each count with the one `nf_conntrack_max` of the
machine; the hash table is shared. A flow that a guest begins counts twice: in its slot's namespace, which takes any number up to that maximum,
and in the root namespace, together with those of all other sandboxes and the host's own. So each slot's firewall lets a guest have
`flows`, and the maximum has room for all slots at once beside the host's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.network.block import SLOT_LIMIT

HOST_FLOWS: Final = 262_144
"""Left to the host itself, connections to guests among them: the kernel's usual maximum."""
_ENTRY_B: Final = 384
"""An entry with its NAT extension, rounded up by the slab."""
_MEMORY_SHARE: Final = 8
"""At most an eighth of the machine's memory for a table that is full."""
_FLOWS_A_BUCKET: Final = 4


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """What one sandbox may take.

    Attributes:
        flows: connections, UDP exchanges and half-open connections that its guest began, at once.
        bit_per_s: in each direction; 0: no limit.
    """

    flows: int = 1000
    bit_per_s: int = 0


@dataclass(frozen=True, slots=True)
class FlowTable:
    """The connection table that a host needs.

    Attributes:
        slots: sandboxes that it has room for.
        size: `nf_conntrack_max`.
        buckets: of its hash table.
    """

    slots: int
    size: int
    buckets: int


def plan_flow_table(*, memory_b: int, flows: int) -> FlowTable:
    """The table of a machine with so much memory: for all slots of a block, or for as many as its memory has room for."""
    most = memory_b // _MEMORY_SHARE // _ENTRY_B
    slots = max(1, min(SLOT_LIMIT, (most - HOST_FLOWS) // flows))
    size = HOST_FLOWS + slots * flows
    return FlowTable(slots, size, size // _FLOWS_A_BUCKET)
