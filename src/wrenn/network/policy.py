"""The egress policy of one sandbox: which of the addresses that its host lets sandboxes reach it may reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

from wrenn.base.networks import parse_networks


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """A destination in `allow` is reachable; else one in `deny` is not; else `allow_internet` decides.

    The default allows everything that the host allows. No policy opens what the host keeps from all its sandboxes: protected
    destinations (the host, other sandboxes, metadata services) and private networks (`HostReach`).
    """

    allow_internet: bool = True
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()

    @classmethod
    def parse(
        cls, *, allow_internet: bool = True, allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> Self:
        """Read a policy whose networks are text.

        Raises:
            InvalidRequest: not an IPv4 address or network, or too many of them.
        """
        return cls(allow_internet, parse_networks(allow), parse_networks(deny))
