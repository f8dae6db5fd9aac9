"""Computes the network limits of a sandbox and the size of the host's connection table. Nothing is applied here.

The kernel counts tracked connections separately in each namespace and compares each count with the machine's
single `nf_conntrack_max`; the hash table is shared. A flow from a guest is counted twice: in the namespace of
its slot, where the only limit is that maximum, and in the root namespace, together with the flows of all
other sandboxes and of the host. So the firewall of each slot limits its guest to `flows`, and the maximum is
large enough for all slots at once and the host itself.

A closed TCP connection stays in the table for a while, and the firewall's count of flows leaves it out. So the
firewall also limits the rate of new flows, the while is made short, and the table has space for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wrenn.network.block import SLOT_LIMIT

HOST_FLOWS: Final = 262_144
"""Flows for the host itself, including its connections to guests: the kernel's usual maximum."""
_ENTRY_B: Final = 384
"""Size of an entry with its NAT extension, rounded up to a slab object."""
_MEMORY_SHARE: Final = 8
"""A full table may take at most an eighth of the machine's memory."""
_FLOWS_A_BUCKET: Final = 4
_CLOSED_S: Final = 5
"""How long a closed TCP connection stays in the table; the kernel's default is 120 s."""
CLOSED_TIMEOUTS: Final[Mapping[str, int]] = {
    "netfilter/nf_conntrack_tcp_timeout_time_wait": _CLOSED_S,
    "netfilter/nf_conntrack_tcp_timeout_close": 2,
}
"""Kernel settings, in seconds, for the namespaces of the slots and of the host."""
_FILLED_IN_S: Final = _CLOSED_S
"""A guest may open all its flows at once, and in the long run as many new ones within this time."""
ENTRIES_A_FLOW: Final = 2 + _CLOSED_S // _FILLED_IN_S
"""Entries of a sandbox in the table for each of its flows: the open ones, those that were closed before as many
were opened at once, and those opened and closed since, at the highest rate."""


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """Network limits of one sandbox.

    Attributes:
        flows: concurrent connections, UDP flows and half-open connections that the guest opened; at once it may
            open as many, and in the long run `new_flows_per_s`.
        bit_per_s: in each direction; 0: no limit.
    """

    flows: int = 1000
    bit_per_s: int = 0


@dataclass(frozen=True, slots=True)
class FlowTable:
    """The connection table that a host needs.

    Attributes:
        slots: number of sandboxes that it is sufficient for.
        size: value of `nf_conntrack_max`.
        buckets: buckets of its hash table.
    """

    slots: int
    size: int
    buckets: int


def new_flows_per_s(flows: int) -> int:
    """Return the rate of new flows of a guest that may have `flows` at once."""
    return max(1, flows // _FILLED_IN_S)


def plan_flow_table(*, memory_b: int, flows: int) -> FlowTable:
    """Size the table for all slots of a block, or for as many as fit into its share of `memory_b`."""
    most = memory_b // _MEMORY_SHARE // _ENTRY_B
    entries = flows * ENTRIES_A_FLOW
    slots = max(1, min(SLOT_LIMIT, (most - HOST_FLOWS) // entries))
    size = HOST_FLOWS + slots * entries
    return FlowTable(slots, size, size // _FLOWS_A_BUCKET)
