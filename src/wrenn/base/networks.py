"""IPv4 networks: those that sandboxes cannot reach by default or ever, and functions to parse and combine lists of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses
from typing import Final

from wrenn.base.errors import InvalidRequest

ALL_SLOTS: Final = IPv4Network("10.11.0.0/16")
"""The slot addresses of all installations on a machine, at which the host reaches its sandboxes."""

PROTECTED_NETWORKS: Final = (
    IPv4Network("0.0.0.0/8"),
    ALL_SLOTS,
    IPv4Network("100.100.100.200/32"),  # metadata: Alibaba
    IPv4Network("127.0.0.0/8"),
    IPv4Network("168.63.129.16/32"),  # metadata: Azure
    IPv4Network("169.254.0.0/16"),  # metadata of most clouds, and the link-local addresses of our slots
    IPv4Network("192.0.0.192/32"),  # metadata: Oracle
    IPv4Network("224.0.0.0/3"),  # multicast, reserved, broadcast
)
"""Never reachable from a sandbox: neither its policy nor the operator's settings can allow them."""

PRIVATE_NETWORKS: Final = (
    IPv4Network("10.0.0.0/8"),  # RFC 1918
    IPv4Network("100.64.0.0/10"),  # carrier-grade NAT, RFC 6598
    IPv4Network("172.16.0.0/12"),  # RFC 1918
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, RFC 6890
    IPv4Network("192.0.2.0/24"),  # documentation, RFC 5737
    IPv4Network("192.88.99.0/24"),  # former 6to4 relays, RFC 7526
    IPv4Network("192.168.0.0/16"),  # RFC 1918
    IPv4Network("198.18.0.0/15"),  # benchmarks, RFC 2544
    IPv4Network("198.51.100.0/24"),  # documentation, RFC 5737
    IPv4Network("203.0.113.0/24"),  # documentation, RFC 5737
)
"""Not public (IANA's special-purpose registry): reachable only if the operator's settings allow them."""

EVERYTHING: Final = IPv4Network("0.0.0.0/0")

NETWORKS_LIMIT: Final = 256
"""Most networks in one list: lists are stored with each sandbox and returned whenever sandboxes are listed."""

_TEXT_LIMIT: Final = len("255.255.255.255/255.255.255.255")


def parse_network(text: str) -> IPv4Network:
    """Parse an IPv4 address or network, such as `203.0.113.7` or `203.0.113.0/24`.

    Raises:
        InvalidRequest: it is neither.
    """
    if len(text) <= _TEXT_LIMIT and text.isascii():
        try:
            return IPv4Network(text)
        except ValueError:
            pass
    if ":" in text:
        raise InvalidRequest(f"{text[:60]!r} is not an IPv4 network: sandboxes have no IPv6.")
    raise InvalidRequest(
        f"{text[:60]!r} is not an IPv4 network: write it as 203.0.113.0/24, with no bits set after the prefix."
    )


def parse_networks(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    """Parse a list of networks. Duplicates are removed; the order is preserved.

    Raises:
        InvalidRequest: one is not an IPv4 network, or there are too many.
    """
    networks: dict[IPv4Network, None] = {}
    for count, text in enumerate(texts, 1):
        if count > NETWORKS_LIMIT:
            raise InvalidRequest(f"A list of networks may have at most {NETWORKS_LIMIT} entries.")
        networks[parse_network(text)] = None
    return tuple(networks)


def network_text(network: IPv4Network) -> str:
    """Format a network; a single address has no prefix length."""
    return str(network.network_address) if network.prefixlen == 32 else str(network)


def without(networks: Iterable[IPv4Network], holes: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """Return `networks` minus all addresses of `holes`: disjoint and in ascending order."""
    left = list(collapse_addresses(networks))
    for hole in holes:
        remaining: list[IPv4Network] = []
        for network in left:
            if hole.supernet_of(network):
                continue
            remaining.extend(network.address_exclude(hole) if network.supernet_of(hole) else (network,))
        left = remaining
    return tuple(collapse_addresses(left))


def collapse_networks(networks: Iterable[IPv4Network]) -> tuple[IPv4Network, ...]:
    """Return the smallest list of networks with the same addresses, in ascending order."""
    return tuple(collapse_addresses(networks))


def is_within(network: IPv4Network, networks: tuple[IPv4Network, ...]) -> bool:
    """Whether every address of `network` is in `networks`, which must be a result of `collapse_networks`."""
    return any(network.subnet_of(other) for other in networks)
