"""The destinations that all sandboxes of a host may reach, before their own egress policies apply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import PRIVATE_NETWORKS, parse_networks, without


@dataclass(frozen=True, slots=True)
class ReachableNetworks:
    """The operator's settings: name servers of the guests, and private networks that guests may reach.

    Attributes:
        name_servers: reachable on port 53 (UDP and TCP) under any policy, even in blocked networks.
        allowed: parts of private networks, and of networks that the host is directly connected to, that
            sandboxes may reach. Protected destinations remain blocked.
    """

    name_servers: tuple[IPv4Address, ...] = ()
    allowed: tuple[IPv4Network, ...] = ()

    @classmethod
    def parse(cls, *, name_servers: str, allowed: str) -> Self:
        """Parse both comma-separated lists.

        Raises:
            InvalidRequest: one is not a list of IPv4 addresses, or of IPv4 networks.
        """
        servers: list[IPv4Address] = []
        for text in _entries(name_servers):
            try:
                servers.append(IPv4Address(text))
            except ValueError as error:
                raise InvalidRequest(f"{text!r} is not the IPv4 address of a name server.") from error
        return cls(tuple(dict.fromkeys(servers)), parse_networks(_entries(allowed)))

    def blocked(self, on_link: Iterable[IPv4Network] = ()) -> tuple[IPv4Network, ...]:
        """Return private networks and those in `on_link`, minus `allowed`. They are disjoint, as nft requires."""
        return without([*PRIVATE_NETWORKS, *on_link], collapse_addresses(self.allowed))


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
