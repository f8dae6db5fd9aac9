"""Describes a slot as values: addresses, kernel settings, netlink requests, firewall. `apply.py` carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from wrenn.linux.netlink import (
    AddAddress,
    AddDefaultRoute,
    AddHostRoute,
    AddNeighbour,
    AddVeth,
    BringUp,
    LimitRate,
    Request,
)
from wrenn.linux.nft import NftCommand
from wrenn.network.block import Block
from wrenn.network.firewall import GUEST, HOST_GATEWAY, TAP, UPLINK, slot_table
from wrenn.network.limits import CLOSED_TIMEOUTS, NetworkLimits
from wrenn.network.policy import EgressPolicy
from wrenn.network.reachable_networks import ReachableNetworks

GUEST_MAC: Final = "02:fc:00:00:00:05"
TAP_MAC: Final = "02:fc:00:00:00:06"
"""The same in every slot: a restored guest still has it in its neighbour table."""

TAP_ADDRESS: Final = "169.254.0.22"
_TAP_PREFIX: Final = 30

FORWARDING: Final[Mapping[str, str]] = {"ipv4/ip_forward": "1"}
_SLOT_SYSCTLS: Final[Mapping[str, str]] = {
    **FORWARDING,
    # Learn no neighbours from ARP requests with foreign addresses: the size of the neighbour table is limited
    # for the whole machine.
    "ipv4/conf/all/arp_filter": "1",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    **{key: str(value) for key, value in CLOSED_TIMEOUTS.items()},
}


NO_RATE: Final = NetworkLimits()


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """All steps that prepare one slot, in the order of the fields."""

    namespace: str
    address: IPv4Address
    host_link: str
    sysctls: Mapping[str, str]
    tap_uid: int
    tap_gid: int
    pair: tuple[Request, ...]
    inside: tuple[Request, ...]
    firewall: tuple[NftCommand, ...]
    host_sysctls: Mapping[str, str]
    outside: tuple[Request, ...]


def plan_slot(
    block: Block,
    slot: int,
    *,
    vmm_uid: int,
    vmm_gid: int,
    reach: ReachableNetworks | None = None,
    limits: NetworkLimits = NO_RATE,
) -> SlotPlan:
    """Plan a new slot: the tap belongs to the VMM's user, and the egress policy is the default."""
    namespace, host_link, address = block.namespace(slot), block.host_link(slot), str(block.address(slot))
    inner_mac, outer_mac = _mac(1, block, slot), _mac(2, block, slot)
    return SlotPlan(
        namespace=namespace,
        address=block.address(slot),
        host_link=host_link,
        sysctls=_SLOT_SYSCTLS,
        tap_uid=vmm_uid,
        tap_gid=vmm_gid,
        pair=(AddVeth(host_link, outer_mac, UPLINK, inner_mac, namespace),),
        inside=(
            BringUp("lo"),
            BringUp(TAP, TAP_MAC),
            AddAddress(TAP, TAP_ADDRESS, _TAP_PREFIX),
            AddNeighbour(TAP, GUEST, GUEST_MAC),
            BringUp(UPLINK),
            AddAddress(UPLINK, address, 32),
            AddNeighbour(UPLINK, HOST_GATEWAY, outer_mac),
            AddDefaultRoute(UPLINK, HOST_GATEWAY, address),
            *_rate(UPLINK, limits),
        ),
        firewall=tuple(
            slot_table(block.address(slot), EgressPolicy(), reach or ReachableNetworks(), flows=limits.flows)
        ),
        host_sysctls={f"ipv6/conf/{host_link}/disable_ipv6": "1"},
        outside=(
            BringUp(host_link),
            AddAddress(host_link, HOST_GATEWAY, 32),
            AddNeighbour(host_link, address, inner_mac),
            AddHostRoute(host_link, address, HOST_GATEWAY),
            *_rate(host_link, limits),
        ),
    )


def _rate(link: str, limits: NetworkLimits) -> tuple[Request, ...]:
    """Limit the rate of traffic that leaves over `link`: each end of the veth limits one direction."""
    return (LimitRate(link, limits.bit_per_s),) if limits.bit_per_s else ()


def _mac(side: int, block: Block, slot: int) -> str:
    """Compute a locally administered MAC address. Both sides can compute it, so no ARP is needed."""
    return f"02:fc:{side:02x}:{block.index:02x}:{slot >> 8:02x}:{slot & 0xFF:02x}"
