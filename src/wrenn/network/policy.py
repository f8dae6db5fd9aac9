"""The egress policy of one sandbox: which destinations it may reach, within what its host allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

from wrenn.base.networks import parse_networks


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """A destination in `allow` is reachable; otherwise one in `deny` is not; otherwise `allow_internet` decides.

    The default allows everything that the host allows. A policy cannot allow what the host blocks for all its
    sandboxes: protected destinations (the host, other sandboxes, metadata services) and private networks
    (`ReachableNetworks`).
    """

    allow_internet: bool = True
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()

    @classmethod
    def parse(
        cls, *, allow_internet: bool = True, allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> Self:
        """Parse a policy from text.

        Raises:
            InvalidRequest: not an IPv4 address or network, or too many of them.
        """
        return cls(allow_internet, parse_networks(allow), parse_networks(deny))
