"""The egress policy of one sandbox: which destinations it may reach, within what its host allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Self

from wrenn.base.host_names import HostPattern, destination_text, parse_destinations
from wrenn.base.networks import parse_networks


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """A destination in `allow` is reachable; otherwise one in `deny` is not; otherwise `allow_internet` decides.

    The default allows everything that the host allows. A policy cannot allow what the host blocks for all its
    sandboxes: protected destinations (the host, other sandboxes, metadata services) and private networks
    (`ReachableNetworks`).

    `allow_names` are servers that the guest reaches by name, over HTTP on port 80 and TLS on port 443. While there are
    any, all its connections to these ports go by the name, unless their address is in `allow`. So names are of use only
    where everything else is denied, which the control plane requires.
    """

    allow_internet: bool = True
    allow: tuple[IPv4Network, ...] = ()
    deny: tuple[IPv4Network, ...] = ()
    allow_names: tuple[HostPattern, ...] = ()

    @classmethod
    def parse(
        cls, *, allow_internet: bool = True, allow: Iterable[str] = (), deny: Iterable[str] = ()
    ) -> Self:
        """Parse a policy from text. `allow` may have host names too.

        Raises:
            InvalidRequest: not an IPv4 address or network or a host name, or too many of them.
        """
        allowed = parse_destinations(allow)
        return cls(
            allow_internet,
            tuple(entry for entry in allowed if isinstance(entry, IPv4Network)),
            parse_networks(deny),
            tuple(entry for entry in allowed if isinstance(entry, HostPattern)),
        )

    @property
    def allow_texts(self) -> tuple[str, ...]:
        """What is allowed, in the form that `parse` takes."""
        return tuple(map(destination_text, (*self.allow, *self.allow_names)))
